"""Who makes the call that is being served; the guard says so before a servicer runs."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from server.records import Caller

NOBODY: Final = Caller()

_CALLER: Final[ContextVar[Caller]] = ContextVar("caller", default=NOBODY)
_CERTIFICATE: Final[ContextVar[bytes | None]] = ContextVar("certificate", default=None)


def current() -> Caller:
    """The caller of this call; one without a role over plaintext."""
    return _CALLER.get()


def certificate() -> bytes | None:
    """The certificate that this call shows, as PEM; None over plaintext."""
    return _CERTIFICATE.get()


def begin(caller: Caller, certificate: bytes | None = None) -> None:
    """Says who makes the call that the running task serves; grpc.aio gives each call its own."""
    _CALLER.set(caller)
    _CERTIFICATE.set(certificate)


def client_name(claimed: str) -> str:
    """The name of the calling client: that of its certificate, or over plaintext the claimed one.

    Raises FednotError (NOT_YOUR_NAME) if a message claims another name than the certificate's.
    """
    caller = current()
    if caller.role is None:
        return claimed
    if caller.role is not Role.CLIENT or claimed not in ("", caller.name):
        raise FednotError(
            Reason.NOT_YOUR_NAME, f"the certificate is that of {caller.key}, not of {claimed!r}"
        )
    return caller.name
