"""Encodes this client's updates as its session agreed, and keeps what an encoding left out."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch

from client.destroyed import Destroyed
from client.residual import Residual
from fednot.codecs import Codec
from fednot.manifest import Manifest
from fednot.tensors import as_bytes
from fednot.wire import checksum


@dataclass(frozen=True)
class Encoded:
    """An encoded update and the xxh3-128 over it, in hexadecimal."""

    payload: memoryview
    checksum: str


class Encoder:
    """Encodes one update at a time.

    What a lossy encoding left out is added to the next update of the same codec and generation.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._codec: Codec | None = None
        self._residual: Residual | None = None
        self._encoding = ""
        self._counted = ""
        self._gone: list[Destroyed] = []
        self._lock = threading.Lock()

    def encode(
        self, codec: Codec, update: torch.Tensor, generation: int, work_id: str = ""
    ) -> Encoded:
        """Encodes a flat update of a model of this generation. It blocks: run it in a thread.

        The same work again, after it was counted, has lost its update with the server's sum: then
        the update is encoded as it was the first time.
        """
        with self._lock:
            if self._residual is None or self._codec != codec:
                self._gone += self._forget()
                self._codec, self._residual = codec, Residual(codec, self._manifest)
            elif self._residual.is_before(generation):
                self._gone += self._residual.destroy()
            if work_id and work_id == self._counted:
                self._residual.take_back()
            self._encoding, self._counted = work_id, ""
            payload = as_bytes(self._residual.propose(update, generation))
        return Encoded(payload, checksum(payload))

    def counted(self) -> None:
        """The server has counted the update that was encoded last."""
        with self._lock:
            if self._residual is not None:
                self._residual.accepted()
                self._counted = self._encoding

    def dropped(self) -> None:
        """The update that was encoded last does not count, nor does what its encoding left out."""
        with self._lock:
            if self._residual is not None:
                self._residual.dropped()

    def destroy_before(self, generation: int) -> list[Destroyed]:
        """Destroys what is kept of older generations and tells what it was. It blocks.

        It tells, too, what went since the last call because a newer generation had begun.
        """
        with self._lock:
            gone, self._gone = self._gone, []
            if self._residual is not None and self._residual.is_before(generation):
                gone += self._forget()
            return gone

    def forget(self) -> list[Destroyed]:
        """Destroys what encodings left out, since it holds this client's data; tells what."""
        with self._lock:
            return self._forget()

    def _forget(self) -> list[Destroyed]:
        residual, self._residual, self._counted = self._residual, None, ""
        return residual.destroy() if residual is not None else []
