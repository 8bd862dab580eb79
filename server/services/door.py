"""Judges who calls and whether they may, whatever carries the call, and keeps count of refusals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from fednot.errors import FednotError, Reason
from server.limits.callers import CallerLimits
from server.metrics import Metrics
from server.records import Caller
from server.refusals import CLIENT_KEY, JOB_KEY
from server.services import callers
from server.services.permissions import check, method_name

log = logging.getLogger("server.services")

COURSE_OF_THINGS: Final = frozenset(
    {
        Reason.ROUND_OVER,
        Reason.UNKNOWN_SESSION,
        Reason.UNKNOWN_WORK,
        Reason.DUPLICATE_UPDATE,
        Reason.STALE_GENERATION,
        Reason.WRONG_BASE_VERSION,
        Reason.SLOW_SENDER,
        Reason.UPLOAD_REPLACED,
        Reason.SERVER_BUSY,
        Reason.SHUTTING_DOWN,
        Reason.STATE_UNAVAILABLE,
        Reason.NO_SPACE,
        Reason.INTERNAL,
    }
)
"""What the audit leaves out: clients that lost a race against a round or a restart, a slow link, a
busy or stopping server, a state that cannot be reached, a fault of the server itself. Nobody was
denied anything; counters tell."""

_UNTOLD: Final = COURSE_OF_THINGS | {Reason.TOO_MANY_REQUESTS, Reason.TOO_MANY_CONNECTIONS}
"""Refusals that the log tells with --log-level debug alone, as of callers without a certificate:
they would fill it."""

ASK_AGAIN_AFTER: Final = 0.2


class CallerSource(Protocol):
    """Knows callers by their certificates; `server.identity.ServerIdentity` is one."""

    def caller_of(self, pem: bytes) -> Caller:
        """Who calls. Raises FednotError for a certificate that does not hold now."""
        ...

    def holder_of(self, pem: bytes) -> Caller:
        """Whom a certificate names, valid or not; nobody unless a trusted authority issued it."""
        ...


class Refusals(Protocol):
    """Keeps what was refused; `server.audit.RefusalLog` does."""

    async def note(
        self, caller: Caller, action: str, reason: Reason, subject: str = "", job_id: str = ""
    ) -> None:
        """Notes one refusal."""
        ...


class Door:
    """Stands before what one listener serves.

    `identities` is None where no certificates are shown: over plaintext and on the enrolment
    listener. `may` raises FednotError if a caller may not call a method there; `limits` count what
    a caller takes over all doors that share them.
    """

    def __init__(
        self,
        metrics: Metrics,
        identities: CallerSource | None = None,
        refusals: Refusals | None = None,
        may: Callable[[str, Caller], None] = check,
        limits: CallerLimits | None = None,
    ) -> None:
        self._limits = limits
        self._metrics = metrics
        self._identities = identities
        self._refusals = refusals
        self._may = may

    def caller(self, pem: bytes | None) -> Caller:
        """Who shows a certificate at this moment. Raises FednotError if it does not hold."""
        if self._identities is None:
            return callers.NOBODY
        if pem is None:
            raise FednotError(Reason.NO_CERTIFICATE, "the call shows no certificate")
        return self._identities.caller_of(pem)

    @contextmanager
    def admitted(self, method: str, pem: bytes | None, connection: Hashable) -> Iterator[Caller]:
        """Who calls a method over a connection, for the length of the call.

        Raises FednotError if the caller may not, or not now.
        """
        caller = self.caller(pem)
        self._may(method, caller)
        if self._limits is None:
            yield caller
            return
        self._limits.check(method, caller)
        with self._limits.calling(caller, connection):
            yield caller

    def judge_again(self, pem: bytes | None) -> None:
        """Before the answer: a caller that has a newer certificate by now may ask again; any other
        is refused then. Raises FednotError (SERVER_BUSY).
        """
        try:
            self.caller(pem)
        except FednotError as error:
            raise FednotError(
                Reason.SERVER_BUSY,
                f"while the call was served: {error.message}; send it again",
                retry_after=ASK_AGAIN_AFTER,
            ) from error

    async def refused(self, method: str, error: Exception, pem: bytes | None) -> FednotError:
        """What a call that failed is told; it is counted, and noted if it denied something.

        An error that is no FednotError becomes INTERNAL: its text stays in the log and does not
        leave the server.
        """
        if not isinstance(error, FednotError):
            log.exception("a call failed", exc_info=error)
            error = FednotError(Reason.INTERNAL, "the server met an unexpected fault")
        self._metrics.calls.refused(error.reason)
        level = logging.DEBUG if pem is None or error.reason in _UNTOLD else logging.INFO
        said = {"method": method_name(method), "reason": error.reason.value}
        log.log(level, "a call was refused", extra=said)
        await self._note(method, error, pem)
        return error

    async def _note(self, method: str, error: FednotError, pem: bytes | None) -> None:
        if self._refusals is None or error.reason in COURSE_OF_THINGS:
            return
        caller = callers.NOBODY
        if self._identities is not None and pem is not None:
            caller = self._identities.holder_of(pem)
        client = error.metadata.get(CLIENT_KEY, "")
        subject = f"client/{client}" if client else ""
        job_id = error.metadata.get(JOB_KEY, "")
        try:
            await self._refusals.note(caller, method_name(method), error.reason, subject, job_id)
        except Exception:
            log.exception("a refusal could not be noted in the audit")
