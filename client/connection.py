"""What the client knows of its connection, and the one place that retries a call.

An outage is logged once when it begins and once when it ends, whichever call saw it. In between the
client looks why: what is wrong with a certificate is told once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc
from grpc import aio

from client.backoff import Backoff
from client.metrics import ClientMetrics
from client.worker import Worker, WorkFailedError
from fednot.errors import FednotError, Reason
from fednot.http_status import Health
from fednot.rpc_errors import from_rpc_error, plain_cause
from fednot.training import WorkCancelledError

LIVE_SECONDS: Final = 15.0
LOOK_PAUSE: Final = 30.0

_PASSING: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
}
_RETRIED: Final = {
    Reason.SHUTTING_DOWN,
    Reason.STATE_UNAVAILABLE,
    Reason.NO_SPACE,
    Reason.INTERNAL,
    Reason.WRONG_CHECKSUM,
}
_WAITED_FOR: Final = {
    Reason.SERVER_BUSY,
    Reason.CLIENT_CONNECTED,
    Reason.TOO_MANY_REQUESTS,
    Reason.TOO_MANY_CONNECTIONS,
}
_FINAL: Final = {
    Reason.MANIFEST_MISMATCH,
    Reason.INVALID_CLIENT_NAME,
    Reason.NO_CERTIFICATE,
    Reason.INVALID_CERTIFICATE,
    Reason.CERTIFICATE_REVOKED,
    Reason.WRONG_ROLE,
    Reason.NOT_YOUR_NAME,
}
_MENDED_BY_NEW_FILES: Final = {
    Reason.CERTIFICATE_EXPIRED,
    Reason.CERTIFICATE_NOT_YET_VALID,
    Reason.UNTRUSTED_CERTIFICATE,
}

_log = logging.getLogger("client")

T = TypeVar("T")


class SessionLostError(Exception):
    """The server does not know the session; the client has to join again."""


class FinalRefusalError(Exception):
    """A refusal that no retry mends; the message is the server's sentence and the remedy."""


class BrokenStreamError(Exception):
    """A download that ended early, stalled or did not match its checksum."""


class Connection:
    """Calls the server until it answers, and says how the connection stands.

    `look` finds out, in a thread of its own and within a bounded time, why the server cannot be
    reached; None if that cannot be seen.
    """

    def __init__(
        self,
        address: str,
        metrics: ClientMetrics,
        clock: Callable[[], float] = time.monotonic,
        look: Callable[[], FednotError | None] | None = None,
    ) -> None:
        self.address = address
        self.privacy = ""
        """What training under differential privacy has spent, in words; told with the health."""
        self.waiting_for = "the start"
        self._metrics = metrics
        self._clock = clock
        self._bytes_moved = 0
        self._in_session = False
        self._last_answer = float("-inf")
        self._live_seconds = LIVE_SECONDS
        self._outage_since: float | None = None
        self._look = look
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")
        self._finding: FednotError | None = None
        self._other: FednotError | None = None
        self._told: set[Reason] = set()

    async def call(
        self, attempt: Callable[[], Awaitable[T]], cancelled: threading.Event | None = None
    ) -> T:
        """Awaits attempts, with growing pauses in between, until the server answers.

        The pauses are short again after an attempt that moved bytes of a model.

        Raises FednotError for a refusal that the caller must judge, SessionLostError,
        FinalRefusalError, and WorkCancelledError once `cancelled` is set.
        """
        backoff = Backoff()
        while True:
            moved = self._bytes_moved
            try:
                return await self.once(attempt)
            except _PassingError as passing:
                if moved != self._bytes_moved:
                    backoff.reset()
                pause = max(backoff.next(), passing.retry_after or 0.0)
            if cancelled is not None and cancelled.is_set():
                raise WorkCancelledError("the work no longer counts")
            await asyncio.sleep(pause)

    async def try_once(self, attempt: Callable[[], Awaitable[T]]) -> T | None:
        """One attempt; None if the server could not be reached. Raises as `call` does."""
        try:
            return await self.once(attempt)
        except _PassingError:
            return None

    async def once(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """One attempt, with its errors sorted; what may pass is raised as a private error."""
        try:
            answer = await attempt()
        except (aio.AioRpcError, TimeoutError, BrokenStreamError) as error:
            raise self._sorted(error) from error
        self._answered()
        return answer

    def moved(self, direction: str, num_bytes: int) -> None:
        """Bytes of a model moved; the metrics tell."""
        self._bytes_moved += num_bytes
        self._metrics.moved(direction, num_bytes)

    def opened(self, heartbeat_seconds: float) -> None:
        """A session was opened; from now on an answer is due in a few heartbeats."""
        if self._other is not None:
            _log.info("the other process of this name is gone")
            self._other = None
        self._in_session = True
        self._live_seconds = max(LIVE_SECONDS, 3 * heartbeat_seconds)
        self._metrics.connected(True)

    def closed(self) -> None:
        """The session has ended."""
        self._in_session = False
        self._metrics.connected(False)

    def health(self) -> Health:
        """Ok while a session is open and the server answered a short time ago."""
        age = self._clock() - self._last_answer
        up = self._in_session and self._outage_since is None and age <= self._live_seconds
        waiting_for = self.waiting_for
        if self._other is not None:
            waiting_for = f"the other process to end: {self._other.message}"
        if self._outage_since is not None:
            since = self._clock() - self._outage_since
            waiting_for = f"the server at {self.address}, not reached for {since:.0f} s"
            finding = self._finding
            if finding is not None:
                waiting_for += f": {finding.message}"
        detail = {"server": self.address, "waiting_for": waiting_for}
        return Health(up, detail | ({"privacy": self.privacy} if self.privacy else {}))

    def _sorted(self, error: BaseException) -> Exception:
        refusal = refusal_of(error) if isinstance(error, aio.AioRpcError) else None
        if refusal is not None and refusal.reason in _MENDED_BY_NEW_FILES:
            self._failed(refusal.reason)
            self._found(refusal)
            return _PassingError(None)
        if refusal is not None and refusal.reason not in _RETRIED:
            self._answered()
            if refusal.reason is Reason.CLIENT_CONNECTED:
                self._stands_aside(refusal)
            if refusal.reason in _WAITED_FOR:
                return _PassingError(refusal.retry_after)
            return _judged(refusal)
        if refusal is None and isinstance(error, aio.AioRpcError) and error.code() not in _PASSING:
            return FinalRefusalError(
                f"{error.details()} ({error.code().name}); check that {self.address} is the "
                "main port of a fednot server of this version"
            )
        self._failed(_reason(error))
        if refusal is None:
            self._look_why()
        return _PassingError(refusal.retry_after if refusal else None)

    def _stands_aside(self, refusal: FednotError) -> None:
        if self._other is None:
            _log.warning("waiting for %s: %s", self.address, refusal.advice)
        self._other = refusal

    def _answered(self) -> None:
        self._last_answer = self._clock()
        if self._outage_since is None:
            return
        lasted = self._clock() - self._outage_since
        self._outage_since = self._finding = None
        self._looked_at = float("-inf")
        self._told.clear()
        self._metrics.connected(self._in_session)
        self._metrics.reconnected()
        _log.info("reached the server at %s again after %.1f s", self.address, lasted)

    def _failed(self, reason: str) -> None:
        if self._outage_since is not None:
            return
        self._outage_since = self._clock()
        self._metrics.connected(False)
        _log.warning("waiting for the server at %s: %s", self.address, reason)

    def _look_why(self) -> None:
        if self._look is None or (self._looking is not None and not self._looking.done()):
            return
        if self._clock() - self._looked_at < LOOK_PAUSE:
            return
        self._looked_at = self._clock()
        self._looking = asyncio.get_running_loop().create_task(self._looked(self._look))

    async def _looked(self, look: Callable[[], FednotError | None]) -> None:
        try:
            finding = await Worker().run(look)
        except WorkFailedError:
            return
        if self._outage_since is not None:
            self._found(finding)

    def _found(self, finding: FednotError | None) -> None:
        self._finding = finding
        if finding is not None and finding.reason not in self._told:
            self._told.add(finding.reason)
            _log.warning("no way to %s: %s", self.address, finding.advice)


class _PassingError(Exception):
    def __init__(self, retry_after: float | None) -> None:
        super().__init__("the server could not be reached")
        self.retry_after = retry_after


def refusal_of(error: aio.AioRpcError) -> FednotError | None:
    """The server's reason, or None if the failed call carries none that can be read."""
    try:
        return from_rpc_error(error)
    except ValueError:
        return None


def _judged(refusal: FednotError) -> Exception:
    if refusal.reason is Reason.UNKNOWN_SESSION:
        return SessionLostError(refusal.message)
    if refusal.reason in _FINAL:
        return final(refusal)
    return refusal


def final(refusal: FednotError) -> FinalRefusalError:
    """The refusal as one that ends the process, with what to do about it."""
    return FinalRefusalError(refusal.advice)


def _reason(error: BaseException) -> str:
    if isinstance(error, aio.AioRpcError):
        return f"{error.code().name}: {plain_cause(error.details() or 'no details')}"
    return str(error) or "it did not answer in time"
