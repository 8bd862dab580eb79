"""Has the system write a file to the disk while it is still being filled."""

from __future__ import annotations

import ctypes
from typing import Final

_WRITE: Final = 2
"""SYNC_FILE_RANGE_WRITE: begin to write what is dirty, and do not wait for it."""


def begin(descriptor: int, start: int, length: int) -> None:
    """Begins to write a range of a file; where the system cannot, the final fsync does it all."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, start, length, _WRITE)


def _found() -> ctypes._NamedFuncPointer | None:
    try:
        found = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return found


_sync_file_range: Final = _found()
