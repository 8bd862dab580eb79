"""Encodes this client's updates as its session agreed, and keeps what an encoding left out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

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
        self._lock = threading.Lock()

    def encode(self, codec: Codec, update: torch.Tensor, generation: int) -> Encoded:
        """Encodes a flat update of a model of this generation. It blocks: run it in a thread."""
        with self._lock:
            if self._residual is None or self._codec != codec:
                self._forget()
                self._codec, self._residual = codec, Residual(codec, self._manifest)
            payload = as_bytes(self._residual.propose(update, generation))
        return Encoded(payload, checksum(payload))

    @contextmanager
    def until_counted(self) -> Iterator[Callable[[], None]]:
        """For the time that an update is sent: call what is given once the server has counted it.

        Otherwise what its encoding left out is dropped, as the update itself was.
        """
        counted = False

        def count() -> None:
            nonlocal counted
            counted = True

        try:
            yield count
        finally:
            with self._lock:
                if self._residual is not None:
                    (self._residual.accepted if counted else self._residual.dropped)()

    def forget(self) -> None:
        """Destroys what encodings left out, since it holds this client's data."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self._residual is not None:
            self._residual.destroy()
            self._residual = None
