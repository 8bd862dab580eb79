"""glibc's allocator, set for messages of a mebibyte that come and go by the thousand."""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8

ARENAS: Final = 2
KEPT_BYTES: Final = 32 << 20
"""Below this a freed message's pages stay with the process: mapping them anew costs more than to
copy the message. Few arenas, since each keeps pages of its own for each thread's peak."""


def tune() -> bool:
    """Sets the allocator of this process, before its threads start; False if it is not glibc's."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = (
        (_ARENA_MAX, ARENAS),
        (_MMAP_THRESHOLD, KEPT_BYTES),
        (_TRIM_THRESHOLD, KEPT_BYTES),
    )
    return all(mallopt(key, value) for key, value in settings)
