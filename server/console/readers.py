"""Who asks for a page: a session, the certificate of the connection, or plaintext on loopback."""

from __future__ import annotations

import hashlib
from typing import Final

from starlette.requests import Request

from fednot.address import UNIX, is_loopback
from fednot.errors import CATALOGUE, Code, FednotError
from server.console.calls import Calls
from server.console.forms import BadFormError, Proofs
from server.console.protocol import CERTIFICATE
from server.console.rendering import Reader
from server.console.sessions import SessionDesk

COOKIE: Final = "__Host-fednot"
REFRESHES: Final = "x-fednot-refresh"
"""The header of a page that asks for itself again; nobody looks at it by hand."""


class SignInNeeded(Exception):  # noqa: N818 - it is no fault
    """Nobody is known by what the request shows; the text says why, "" if it shows nothing."""


class Readers:
    """Finds out who asks. A session goes before the certificate of a connection."""

    def __init__(self, calls: Calls, desk: SessionDesk, *, insecure: bool) -> None:
        self._calls = calls
        self._desk = desk
        self._insecure = insecure
        self._proofs = Proofs()

    def of(self, request: Request) -> Reader:
        """Who asks. Raises SignInNeeded, or BadFormError for a plaintext host that is not here."""
        peer = f"console {request.client.host}:{request.client.port}" if request.client else ""
        if self._insecure:
            check_host(request)
            return Reader(self._calls.caller(None), None, peer, self._proofs.of("plaintext"))
        secret = request.cookies.get(COOKIE, "")
        by_hand = REFRESHES not in request.headers
        found = self._desk.certificate_of(secret, by_hand=by_hand) if secret else None
        if found is not None:
            return self._judged(found, peer, secret)
        shown: bytes | None = getattr(request.state, CERTIFICATE, None)
        if shown is None:
            raise SignInNeeded("the session has ended" if secret else "")
        return self._judged(shown, peer, "")

    def _judged(self, certificate: bytes, peer: str, secret: str) -> Reader:
        try:
            caller = self._calls.caller(certificate)
        except FednotError as error:
            if secret and CATALOGUE[error.reason].code is Code.UNAUTHENTICATED:
                self._desk.end(secret)
            raise SignInNeeded(error.message) from error
        whom = secret or hashlib.sha256(certificate).hexdigest()
        return Reader(caller, certificate, peer, self._proofs.of(whom), secret)


def check_host(request: Request) -> None:
    """Raises BadFormError for a name that is not this machine's own.

    Over plaintext nobody is asked who they are, so that a site must not reach the console by a name
    of its own that it points to this machine.
    """
    host = request.headers.get("host", "")
    named = host if host.rpartition(":")[2].isdecimal() else f"{host}:80"
    if named.startswith(UNIX) or not is_loopback(named):
        raise BadFormError(403, "over plaintext the console is reached by 127.0.0.1 or localhost")
