"""Locks on folders: one process or thread changes what is in there at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fednot.identity.faults import AuthorityBusyError

LOCK_FILE: Final = "lock"
LOCK_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes and threads from changing an authority; blocks.

    Raises AuthorityBusyError if another one does so for LOCK_SECONDS.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(holding(directory / LOCK_FILE))
        except TimeoutError as error:
            raise AuthorityBusyError(
                f"another process has been changing the authority in {directory} for "
                f"{LOCK_SECONDS:g} s; end it, or try again"
            ) from error
        yield


@contextlib.contextmanager
def holding(path: Path) -> Iterator[None]:
    """Holds the lock that a file stands for; makes the file, which stays; blocks.

    Raises TimeoutError if another one holds it for LOCK_SECONDS, OSError if it cannot be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(handle, path)
        yield
    finally:
        os.close(handle)


def _take(handle: int, path: Path) -> None:
    ends = time.monotonic() + LOCK_SECONDS
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() >= ends:
            raise TimeoutError(f"another process has been holding {path} for {LOCK_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
