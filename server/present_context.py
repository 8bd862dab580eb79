"""TLS for Python's own sockets with what the identity's files say now."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable

from fednot.identity.folder import Credentials
from server.identity import ServerIdentity


class PresentContext:
    """What TLS serves with: made anew when the identity's files were replaced. Thread-safe."""

    def __init__(
        self, identity: ServerIdentity | None, make: Callable[[Credentials], ssl.SSLContext]
    ) -> None:
        self._identity = identity
        self._make = make
        self._made: ssl.SSLContext | None = None
        self._made_of: object = None
        self._lock = threading.Lock()

    def present(self) -> ssl.SSLContext | None:
        """The context for the next handshake; None for plaintext."""
        if self._identity is None:
            return None
        with self._lock:
            own = self._identity.own
            if own is not self._made_of:
                self._made, self._made_of = self._make(own), own
            return self._made
