"""Blocks of bytes for models and updates: in memory while a budget lasts, in spill files beyond it.

A spill file has no name, so nothing of it is left after a crash. Its space is taken when the block
is made: a disk that is full is an OSError then, and no signal when the block is written to.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import torch

from fednot.pages import anonymous, tensor_of
from fednot.tensors import as_bytes
from server.disk_faults import telling

TRAIL: Final = 16 << 20
_POPULATE_WRITE: Final = 23
"""MADV_POPULATE_WRITE of Linux 5.14, which Python does not name."""


class Block:
    """Bytes of one model or update: `tensor`, uint8 of shape [nbytes]."""

    def __init__(self, tensor: torch.Tensor, spill: mmap.mmap | None = None) -> None:
        self._tensor: torch.Tensor | None = tensor
        self._spill = spill
        self.spilled: Final = spill is not None
        self.nbytes: Final = tensor.numel()

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Block:
        """A block of bytes that exist: uint8 of shape [nbytes]; no budget counts it."""
        if tensor.dtype is not torch.uint8 or tensor.dim() != 1 or not tensor.is_contiguous():
            raise ValueError(f"a block is a run of uint8, not {tensor.dtype}{list(tensor.shape)}")
        return cls(tensor)

    @property
    def tensor(self) -> torch.Tensor:
        """The bytes, uint8 of shape [nbytes]. Raises ValueError if the block is closed."""
        if self._tensor is None:
            raise ValueError("the block is closed")
        return self._tensor

    def prefault(self, start: int, stop: int) -> None:
        """Makes the pages of a range that is about to be written resident, all at once.

        Else each page is a fault of its own, which doubles the time that a spilled sum takes. It
        does nothing to a block in memory. Raises OSError if the pages cannot be had.
        """
        if self._spill is None or stop <= start:
            return
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        try:
            self._spill.madvise(_POPULATE_WRITE, first, stop - first)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Gives back the resident pages that lie wholly in a range of bytes; nothing is lost.

        What is read or written again comes from the file. It does nothing to a block in memory.
        """
        if self._spill is None:
            return
        page = mmap.PAGESIZE
        first = -(-start // page) * page
        end = self.nbytes if stop is None else stop
        # The last page has nothing else in it.
        end = end if end == self.nbytes else end // page * page
        # Step by step, since madvise keeps all other threads of Python waiting.
        for place in range(first, end, TRAIL):
            self._spill.madvise(mmap.MADV_DONTNEED, place, min(TRAIL, end - place))

    def close(self) -> None:
        """Drops the bytes; the memory or file lives on as long as a view of the tensor does."""
        self._tensor = self._spill = None


Failed = Callable[[str], object]
"""Called with "read" or "write" when a spill file cannot be used; in any thread."""


class SpillFile:
    """So many bytes in a file, written and read by copying, so that none of them is ever resident.

    It suits what is passed over once, many files side by side: of a mapping the system makes some
    megabytes resident at each touch, and there would be as many of those as files.
    """

    def __init__(
        self, file: IO[bytes], nbytes: int, failed: Failed = lambda operation: None
    ) -> None:
        self._file = file
        self._failed = failed
        self.nbytes: Final = nbytes

    def write(self, start: int, values: torch.Tensor) -> None:
        """Writes a contiguous 1-D tensor from a byte on. Raises OSError."""
        left = as_bytes(values.view(torch.uint8))
        with telling(self._failed, "write"):
            while left:
                count = os.pwrite(self._file.fileno(), left, start)
                left, start = left[count:], start + count

    def read(self, start: int, into: torch.Tensor) -> None:
        """Fills a contiguous 1-D tensor from a byte on. Raises OSError, also beyond the end."""
        left = as_bytes(into.view(torch.uint8))
        with telling(self._failed, "read"):
            while left:
                count = os.preadv(self._file.fileno(), [left], start)
                if not count:
                    raise OSError(errno.EIO, f"the spill file ends before byte {start}")
                left, start = left[count:], start + count

    def close(self) -> None:
        """Gives the space back; it can be called more than once."""
        self._file.close()


class Trail:
    """Keeps what work has resident of spilled blocks small, while it passes over them."""

    def __init__(self, *blocks: Block) -> None:
        self._spilled = [block for block in blocks if block.spilled]
        self._passed = 0

    def passed(self, nbytes: int) -> None:
        """Says that so many bytes more are done with; every TRAIL bytes, pages are given back."""
        self._passed += nbytes
        if self._passed >= TRAIL:
            self.end()

    def end(self) -> None:
        """Gives back what is left."""
        self._passed = 0
        for block in self._spilled:
            block.release()


class Memory:
    """Gives blocks: in memory while those in use fit the budget, else spilled. Thread-safe.

    `budget` is in bytes; None is no limit. Spill files stand in `folder`, else in the system's own
    for temporary files; `failed` is told of those that cannot be made or used. The share of a block
    comes back when the block is closed or forgotten and no view of its tensor is left.
    """

    def __init__(
        self,
        budget: int | None = None,
        folder: Path | None = None,
        failed: Failed = lambda operation: None,
    ) -> None:
        self._budget = budget
        self._failed = failed
        self._folder = folder
        self._taken = 0
        # The end of a mapping may be noticed at any place, also by the thread that holds the lock.
        self._returned: deque[int] = deque()
        self._lock = threading.Lock()
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def in_use(self) -> int:
        """The bytes of the blocks in memory; spilled ones do not count."""
        with self._lock:
            return self._counted()

    def block(self, nbytes: int) -> Block:
        """A block of zeros. Raises OSError if it must be spilled and the disk has no room."""
        with self._lock:
            fits = self._budget is None or self._counted() + nbytes <= self._budget
            if fits:
                self._taken += nbytes
        if not fits:
            return self.spilled_block(nbytes)
        try:
            mapping = anonymous(nbytes)
        except BaseException:
            self._returned.append(nbytes)
            raise
        weakref.finalize(mapping, self._returned.append, nbytes).atexit = False
        return Block(tensor_of(mapping, nbytes))

    def spilled_block(self, nbytes: int) -> Block:
        """A block of zeros in a file. Raises OSError if the disk has no room for it."""
        with telling(self._failed, "write"), tempfile.TemporaryFile(dir=self._folder) as file:
            if nbytes:
                os.posix_fallocate(file.fileno(), 0, nbytes)
                mapping = mmap.mmap(file.fileno(), nbytes)
            else:
                mapping = anonymous(nbytes)
        return Block(tensor_of(mapping, nbytes), mapping)

    def spill_file(self, nbytes: int) -> SpillFile:
        """A file of zeros. Raises OSError if the disk has no room for it."""
        with telling(self._failed, "write"):
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            try:
                if nbytes:
                    os.posix_fallocate(file.fileno(), 0, nbytes)
            except BaseException:
                file.close()
                raise
        return SpillFile(file, nbytes, self._failed)

    def _counted(self) -> int:
        while self._returned:
            self._taken -= self._returned.popleft()
        return self._taken
