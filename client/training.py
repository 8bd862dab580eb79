"""One order to train: each of its parts is done once, whatever becomes of the session."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from client.destroyed import Destroyed, destroy
from client.encoder import Encoded, Encoder
from client.masking import Masking
from client.trainer import Update
from fednot.codecs import Codec
from fednot.manifest import Manifest
from fednot.v1 import federation_pb2
from fednot.wire import Receiver

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """A piece of work in hand; `phase` is one of client.metrics.PHASES."""

    id: str
    phase: str
    title: str
    cancelled: threading.Event = field(default_factory=threading.Event)


class Training:
    """What has come of an order so far: a part of the model, a running or finished training, an
    encoded update. Whoever waits for a part may be cancelled; the part goes on.
    """

    def __init__(
        self,
        order: federation_pb2.TrainWork,
        work: Work,
        manifest: Manifest,
        encoder: Encoder,
        named: federation_pb2.UnlearnWork | None = None,
    ) -> None:
        """`named` is the named work that the order is part of, if it is not plain training."""
        self.order = order
        self.named = named
        self.work = work
        self.encoder = encoder
        self._masking: Masking | None = None
        self._receiver: Receiver | None = Receiver(manifest)
        self._update: asyncio.Task[Update] | None = None
        self._codec: Codec | None = None
        self._encoded: asyncio.Task[Encoded] | None = None

    @property
    def begun(self) -> bool:
        """Whether the model is there, so that it trains or has trained."""
        return self._receiver is None

    def answers(self, order: federation_pb2.TrainWork) -> bool:
        """Whether an order asks for just this: the same work on the same version."""
        return not self.work.cancelled.is_set() and _essence(order) == _essence(self.order)

    async def update(
        self,
        download: Callable[[Receiver], Awaitable[torch.Tensor]],
        train: Callable[[torch.Tensor], Coroutine[Any, Any, Update]],
    ) -> Update:
        """The update, which is trained from the model that is downloaded. Raises as they do."""
        if self._receiver is not None:
            given = await download(self._receiver)
            self._receiver = None
            self._update = _begun(train(given))
        if self._update is None:
            raise RuntimeError("the training was destroyed")
        return await asyncio.shield(self._update)

    async def encoded(
        self, codec: Codec, encode: Callable[[], Coroutine[Any, Any, Encoded]]
    ) -> Encoded:
        """The update as a session's codec encodes it: once, unless another session has another."""
        if self._encoded is None or self._codec != codec:
            self._codec, self._encoded = codec, _begun(encode())
        return await asyncio.shield(self._encoded)

    def masking(self, order: federation_pb2.TrainWork, begin: Callable[[], Masking]) -> Masking:
        """The attempt at masking that an order names: the one in hand, else one that is begun."""
        if self._masking is None or self._masking.attempt != order.masked.attempt:
            self._forget_masking()
            self._masking = begin()
        return self._masking

    @property
    def attempt(self) -> bytes | None:
        """The attempt at masking in hand, if any."""
        return self._masking.attempt if self._masking is not None else None

    def _forget_masking(self) -> list[Destroyed]:
        masking, self._masking = self._masking, None
        return masking.destroy() if masking is not None else []

    def destroy(self) -> list[Destroyed]:
        """Overwrites all that is held. It blocks, and wants the work's thread to have stopped."""
        payload, update, receiver = _result(self._encoded), _result(self._update), self._receiver
        self._encoded = self._update = self._receiver = None
        gone = self._forget_masking()
        if payload is not None and payload.payload.nbytes:
            bytes_of_it = torch.frombuffer(payload.payload, dtype=torch.uint8)
            if update is None or bytes_of_it.data_ptr() != update.flat.data_ptr():
                gone.append(destroy("payload", bytes_of_it))
        if update is not None:
            gone.append(destroy("update", update.flat))
        if receiver is not None and receiver.filled:
            gone.append(destroy("model", receiver.received))
        return gone


def _essence(order: federation_pb2.TrainWork) -> tuple[str, int, int, int]:
    return order.work_id, order.version, order.generation, order.seed


def _begun(part: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.create_task(part)
    task.add_done_callback(_seen)
    return task


def _seen(task: asyncio.Task[Any]) -> None:
    """Takes note of a failure that nobody waits for any more, or asyncio logs it at exit."""
    if not task.cancelled():
        task.exception()


def _result(task: asyncio.Task[T] | None) -> T | None:
    finished = task is not None and task.done() and not task.cancelled()
    return task.result() if task is not None and finished and not task.exception() else None
