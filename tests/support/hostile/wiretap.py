"""Somebody in the middle of a connection, who keeps what is sent and changes one bit of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

PART: Final = 1 << 14


class Wiretap:
    """A TCP proxy; `sent` is what came from dialling sides, before it was changed.

    The bit is of the byte number `flip` of what is sent, or received, over all connections.
    """

    def __init__(self, target: int, flip: int | None, *, upstream: bool) -> None:
        self.sent = bytearray()
        self.flipped = threading.Event()
        self._target = target
        self._flip = flip
        self._upstream = upstream
        self._passed = {True: 0, False: 0}
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cuts every connection."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for pair in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while part := source.recv(PART):
                if up:
                    self.sent += part
                sink.sendall(self._altered(bytearray(part), up))
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _altered(self, part: bytearray, up: bool) -> bytearray:
        start = self._passed[up]
        self._passed[up] = start + len(part)
        if up is self._upstream and self._flip is not None:
            place = self._flip - start
            if 0 <= place < len(part):
                part[place] ^= 1
                self.flipped.set()
        return part


@contextmanager
def wiretap(target: int, flip: int | None = None, *, upstream: bool = True) -> Iterator[Wiretap]:
    """Somebody between a dialling side and a port of this machine."""
    tap = Wiretap(target, flip, upstream=upstream)
    try:
        yield tap
    finally:
        tap.close()
