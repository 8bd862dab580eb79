"""The lock of an authority's directory: one process or thread changes it at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fednot.identity.faults import AuthorityError

LOCK_FILE: Final = "lock"
LOCK_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes and threads from changing an authority; blocks.

    Raises AuthorityError if another one does so for LOCK_SECONDS.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    handle = os.open(directory / LOCK_FILE, flags, 0o600)
    try:
        _take(handle, directory)
        yield
    finally:
        os.close(handle)


def _take(handle: int, directory: Path) -> None:
    ends = time.monotonic() + LOCK_SECONDS
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() >= ends:
            raise AuthorityError(
                f"another process has been changing the authority in {directory} for "
                f"{LOCK_SECONDS:g} s; end it, or try again"
            )
        time.sleep(_POLL_SECONDS)
