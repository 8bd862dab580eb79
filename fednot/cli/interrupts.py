"""Ctrl-C that is not lost, although gRPC swallows a KeyboardInterrupt within its callbacks."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import NoReturn

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


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    _asked.set()
    raise KeyboardInterrupt
