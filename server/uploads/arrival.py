"""One update on its way in: the bytes so far, where they are kept, and the hash over them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import xxhash

from fednot.errors import FednotError, Reason
from fednot.tensors import as_bytes
from server.blocks import Block

RELEASE_BYTES: Final = 8 << 20
"""How much of a spilled block stays resident behind the place that is written."""


class Arrival:
    """`num_bytes` of which `received` are there. One thread writes; another may move the block.

    `checksum` is the xxh3-128 that the sender announced, "" if it did not: then the upload cannot
    be resumed. `in_slot` says that it counts against the uploads that may be in memory at once,
    `cuts` how often its connection ended early.
    """

    def __init__(self, block: Block, num_bytes: int, checksum: str) -> None:
        self.num_bytes: Final = num_bytes
        self.checksum: Final = checksum
        self.block = block
        self.in_slot = True
        self.holder: object = None
        self.cuts = 0
        self.received = 0
        self.mark = (0, time.monotonic())
        self._hash = xxhash.xxh3_128()
        self._into = as_bytes(block.tensor)
        self._released = 0
        self._complete = False
        self._closed = False
        self._lock = threading.Lock()

    @property
    def spilled(self) -> bool:
        """Whether a write may have to wait for a disk."""
        return self.block.spilled

    def write(self, chunk: memoryview, holder: object) -> None:
        """Takes the next bytes from its holder.

        Raises FednotError: WRONG_SIZE if they are too many, UPLOAD_REPLACED if it has another
        holder by now, which was told where to go on.
        """
        with self._lock:
            self._check_open()
            if self.holder is not holder:
                raise FednotError(Reason.UPLOAD_REPLACED, "a newer upload of this work has begun")
            end = self.received + len(chunk)
            if end > self.num_bytes:
                raise FednotError(Reason.WRONG_SIZE, f"more than {self.num_bytes} bytes were sent")
            self.block.prefault(self.received, end)
            self._into[self.received : end] = chunk
            self._took(end)

    def read_from(self, read: Callable[[memoryview], int], most: int) -> int:
        """Lets `read` fill the place of the next bytes, at most so many; gives how many came.

        `read` must not block, since the block cannot be moved and the arrival cannot be passed on
        meanwhile. It raises if the holder is another one by now.
        """
        with self._lock:
            self._check_open()
            start = self.received
            self.block.prefault(start, min(start + most, self.num_bytes))
            count = read(self._into[start : min(start + most, self.num_bytes)])
            self._took(start + count)
        return count

    def pass_to(self, holder: object) -> None:
        """Gives the arrival to whoever goes on with it; a read that is under way ends first."""
        with self._lock:
            self.holder = holder

    def pace(self, now: float) -> float:
        """Bytes a second since the last time it was asked, or since the beginning."""
        (before, since), self.mark = self.mark, (self.received, now)
        return (self.mark[0] - before) / max(now - since, 1e-9)

    def move(self, allocate: Callable[[], Block]) -> Block | None:
        """Moves what is there to another block and gives the one before; None if it has ended.

        Raises OSError if there is no space.
        """
        with self._lock:
            if self._complete or self._closed:
                return None
            before, self.block = self.block, allocate()
            into = as_bytes(self.block.tensor)
            into[: self.received] = self._into[: self.received]
            self._into, self._released = into, 0
            self._release()
            return before

    def finish(self, checksum: str) -> None:
        """Checks that every byte is there. Raises FednotError (WRONG_SIZE, WRONG_CHECKSUM)."""
        with self._lock:
            if self.received != self.num_bytes:
                raise FednotError(
                    Reason.WRONG_SIZE, f"{self.received} of {self.num_bytes} bytes were sent"
                )
            found = self._hash.hexdigest()
            if checksum != found or self.checksum not in ("", found):
                announced = checksum if checksum != found else self.checksum
                raise FednotError(
                    Reason.WRONG_CHECKSUM, f"the bytes have xxh3-128 {found}, not {announced!r}"
                )
            self._complete = True

    def close(self) -> Block:
        """Takes no more bytes, not even from a thread that is about to write, and gives the block.

        What was complete may still be read until its round has added it.
        """
        with self._lock:
            self._closed = True
            self.holder = None
            return self.block

    def _check_open(self) -> None:
        if self._closed:
            raise FednotError(Reason.UPLOAD_REPLACED, "this upload has ended")

    def _took(self, end: int) -> None:
        self._hash.update(self._into[self.received : end])
        self.received = end
        if self.block.spilled and end - self._released >= RELEASE_BYTES:
            self._release()

    def _release(self) -> None:
        self.block.release(self._released, self.received)
        self._released = self.received
