"""Senders that send one byte and wait, until the server has had enough of them."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

STEP: Final = 0.5
"""The seconds between two bytes."""


@dataclass
class Fate:
    """What became of the senders of one kind: how long each was borne, and what it was told."""

    borne: list[float] = field(default_factory=list)
    told: list[object] = field(default_factory=list)

    @property
    def longest(self) -> float:
        return max(self.borne)


def drip(connected: socket.socket, raw: bytes, longest: float) -> bytes:
    """Sends byte by byte until the server hangs up, and gives what it said; then just waits.

    Raises TimeoutError if the server bears it for so many seconds.
    """
    until, heard = time.monotonic() + longest, b""
    connected.settimeout(STEP)
    rest = iter(raw)
    while time.monotonic() < until:
        try:
            one = next(rest, None)
            if one is not None:
                connected.sendall(bytes([one]))
            part = connected.recv(1 << 16)
        except (TimeoutError, ssl.SSLWantReadError):
            continue
        except OSError:
            return heard
        if not part:
            return heard
        heard += part
    raise TimeoutError(f"the server bore it for {longest:g} s")


def drops(raw: bytes, stop: threading.Event, every: float = STEP) -> Iterator[bytes]:
    """The bytes one at a time, until somebody has heard enough."""
    for one in raw:
        if stop.wait(every):
            return
        yield bytes([one])


class Lorises:
    """Senders of several kinds at once, each in a thread of its own."""

    def __init__(self) -> None:
        self.fates: dict[str, Fate] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def begin(self, kind: str, send: Callable[[], object], count: int = 1) -> None:
        """Begins some of a kind; `send` returns, with what it was told, once it was cut."""
        self.fates[kind] = Fate()
        for _ in range(count):
            thread = threading.Thread(target=self._run, args=(kind, send), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, kind: str, send: Callable[[], object]) -> None:
        start = time.monotonic()
        try:
            told = send()
        except Exception as error:
            told = error
        with self._lock:
            self.fates[kind].borne.append(time.monotonic() - start)
            self.fates[kind].told.append(told)

    def await_end(self, seconds: float) -> None:
        """Waits until all were cut. Raises TimeoutError, which says what was not."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            raise TimeoutError(f"somebody is borne for longer than {seconds:g} s")
