"""Ctrl-C that is not lost, although gRPC swallows a KeyboardInterrupt within its callbacks."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from fednot.cli.exit_codes import ExitCode

_asked = threading.Event()


def heed() -> None:
    """From now on an interrupt is remembered until `check` raises it; not where it is ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)


def check() -> None:
    """Raises KeyboardInterrupt if there was one that has ended nothing yet."""
    if _asked.is_set():
        _asked.clear()
        raise KeyboardInterrupt


@contextlib.contextmanager
def last_words() -> Iterator[None]:
    """For what an interrupted process still tells: people who press again do not cut it short.

    Afterwards another interrupt ends the process at once. All this only where `heed` was called.
    """
    heeding = signal.getsignal(signal.SIGINT) in (_interrupted, _pressed_again)
    if heeding:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if heeding:
            signal.signal(signal.SIGINT, _pressed_again)


def leave(code: int) -> NoReturn:
    """Ends an interrupted process at once: gRPC's end may wait for calls that were broken off."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # it may be flushed just now
            stream.flush()
    os._exit(code)


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    _asked.set()
    raise KeyboardInterrupt


def _pressed_again(_number: int, _frame: FrameType | None) -> NoReturn:
    leave(ExitCode.INTERRUPTED)
