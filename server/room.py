"""Whether the disks have room for what the server writes next."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

from fednot.errors import FednotError, Reason

SPARE: Final = 16 << 20
"""Bytes that new work leaves free, so that requests and their answers can still be written."""
_UNITS: Final = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


class Room:
    """The local folders that the server writes to; `needed` is what its next version takes.

    `free` gives the free bytes of the disk that a folder is on, `size` all of them.
    """

    def __init__(
        self,
        folders: Iterable[Path] = (),
        needed: int = 0,
        free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        size: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).total,
    ) -> None:
        self._folders = tuple(folders)
        self._needed = needed
        self._free = free
        self._size = size

    @property
    def fullest(self) -> tuple[int, int]:
        """The free bytes of the fullest of the disks, and its size; 0 if no folder is looked at."""
        disks = ((self._free(folder), self._size(folder)) for folder in self._folders)
        return min(disks, default=(0, 0))

    def shortage(self) -> str:
        """What is missing, in a sentence; "" if there is room."""
        for folder in self._folders:
            free, needed = self._free(folder), self._needed + SPARE
            if free < needed:
                return (
                    f"the disk of {folder} has {_size(free)} free and new work takes "
                    f"{_size(needed)}"
                )
        return ""

    def check(self) -> None:
        """Raises FednotError (NO_SPACE) if there is too little."""
        shortage = self.shortage()
        if shortage:
            raise FednotError(Reason.NO_SPACE, shortage, retry_after=10.0)


def is_full(fault: BaseException) -> bool:
    """Whether a fault says that a disk has no room, or that this user's share of it is used up."""
    return isinstance(fault, OSError) and fault.errno in (ENOSPC, EDQUOT)


def _size(num_bytes: int) -> str:
    for unit, factor in _UNITS:
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} B"
