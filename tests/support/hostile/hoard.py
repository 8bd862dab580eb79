"""Opens thousands of connections to a port of this machine and holds them: a program of its own.

`python hoard.py PORT COUNT SECONDS` opens them as fast as it can, keeps what is kept for so many
seconds, and prints what became of them as JSON. It shakes no hands and sends nothing.
"""

from __future__ import annotations

import errno
import json
import resource
import selectors
import socket
import sys
import time
from collections import Counter

BATCH = 200
"""As many at once as a listener's queue takes."""


class Hoard:
    """The connections; `became` counts what happened to them."""

    def __init__(self, port: int) -> None:
        self.became: Counter[str] = Counter()
        self.most = 0
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._held: set[socket.socket] = set()

    def open(self, count: int) -> None:
        """Opens more of them."""
        for start in range(0, count, BATCH):
            for _ in range(min(BATCH, count - start)):
                self._dial()
            self.look(0.01)

    def _dial(self) -> None:
        try:
            one = socket.socket()
        except OSError as error:
            self.became[error.strerror or "no socket"] += 1
            return
        one.setblocking(False)
        if one.connect_ex(("127.0.0.1", self._port)) not in (0, errno.EINPROGRESS):
            self.became["not connected"] += 1
            one.close()
            return
        self.became["dialled"] += 1
        self._held.add(one)
        self.most = max(self.most, len(self._held))
        self._selector.register(one, selectors.EVENT_READ)

    def look(self, seconds: float) -> None:
        """Lets go of those that the server has closed."""
        for key, _ in self._selector.select(seconds):
            one = key.fileobj
            assert isinstance(one, socket.socket)
            try:
                more = one.recv(4096)
            except OSError:
                more = b""
            if not more:
                self.became["closed"] += 1
                self._selector.unregister(one)
                self._held.discard(one)
                one.close()

    def hold(self, seconds: float) -> None:
        """Keeps what is kept."""
        until = time.monotonic() + seconds
        while self._held and (left := until - time.monotonic()) > 0:
            self.look(min(left, 0.2))

    def told(self) -> dict[str, int]:
        return {**self.became, "held at most": self.most, "held in the end": len(self._held)}


def main() -> None:
    """Does what the command line says."""
    port, count, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    hoard = Hoard(port)
    start = time.monotonic()
    hoard.open(count)
    opened = time.monotonic() - start
    hoard.hold(seconds)
    print(json.dumps({**hoard.told(), "seconds to open": round(opened, 2)}))


if __name__ == "__main__":
    main()
