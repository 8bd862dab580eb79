"""A version on its way out: its bytes as encoded messages, each made once for all downloads."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

import torch
import xxhash

from fednot.chunk_messages import framed
from fednot.tensors import as_bytes
from fednot.wire import CHUNK_BYTES

KEPT_FRAMES: Final = 32
"""Downloads that are in step share each message; the bound keeps a model from being there twice."""
HASHED_BYTES: Final = 16 << 20


def _nothing(_start: int, _stop: int) -> None:
    """What is in memory has no pages to give back."""


class Broadcast:
    """A flat model that many clients download; `release` gives back pages that were read."""

    def __init__(self, flat: torch.Tensor, release: Callable[[int, int], None]) -> None:
        self._payload = as_bytes(flat)
        self._release = release
        self._frames: OrderedDict[int, bytes] = OrderedDict()
        self._checksum: asyncio.Task[str] | None = None

    @property
    def num_bytes(self) -> int:
        """The size of the model."""
        return len(self._payload)

    async def checksum(self) -> str:
        """xxh3-128 over all bytes, in hexadecimal, computed once and off the event loop."""
        if self._checksum is None:
            self._checksum = asyncio.create_task(asyncio.to_thread(self._hashed))
        return await asyncio.shield(self._checksum)

    def frames(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """The messages from a byte on, each with the number of model bytes in it."""
        while offset < self.num_bytes:
            start = offset - offset % CHUNK_BYTES
            end = min(start + CHUNK_BYTES, self.num_bytes)
            whole = start == offset
            yield end - offset, self._frame(start, end) if whole else self._framed(offset, end)
            offset = end

    def close(self) -> None:
        """Lets the model go: nothing is sent of it any more."""
        self._payload = memoryview(b"")
        self._frames.clear()
        self._release = _nothing

    def view(self, start: int, stop: int) -> memoryview:
        """A part of the bytes, without a copy."""
        return self._payload[start:stop]

    def done_with(self, start: int, stop: int) -> None:
        """Says that a view was read."""
        self._release(start, stop)

    def _frame(self, start: int, end: int) -> bytes:
        found = self._frames.get(start)
        if found is None:
            found = self._frames[start] = self._framed(start, end)
            if len(self._frames) > KEPT_FRAMES:
                self._frames.popitem(last=False)
        return found

    def _framed(self, start: int, end: int) -> bytes:
        made = framed(self._payload[start:end])
        self._release(start, end)
        return made

    def _hashed(self) -> str:
        found = xxhash.xxh3_128()
        for start in range(0, self.num_bytes, HASHED_BYTES):
            end = min(start + HASHED_BYTES, self.num_bytes)
            found.update(self._payload[start:end])
            self._release(start, end)
        return found.hexdigest()
