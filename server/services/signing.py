"""Signs certificate requests with the server's authority: off the loop, and not without end.

Signing has a thread of its own, since it waits while another process holds the authority's lock:
nothing else of the server waits with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

from fednot.errors import FednotError, Reason
from fednot.identity.authority import Authority, AuthorityBusyError, AuthorityError, Signed
from fednot.identity.certificates import key_digest
from fednot.identity.signing_request import MAX_REQUEST_BYTES, requested_key
from fednot.identity.subject import Subject
from fednot.v1 import identity_pb2
from server.identity import ServerIdentity
from server.services.moments import timestamp

log = logging.getLogger("server.services")

MOST_REQUEST_BYTES: Final = MAX_REQUEST_BYTES
MOST_SIGNED: Final = 10
WINDOW: Final = 3600.0
"""So many certificates are signed for one name within so many seconds: each is kept on disk."""
MOST_WAITING: Final = 8
LONGEST_WAIT: Final = 10.0
"""So many jobs for the authority wait, and so many seconds each, before it begins."""

T = TypeVar("T")


class Signing:
    """The authority for callers; one who asks too often, or while it is busy, is told to wait."""

    def __init__(
        self, identity: ServerIdentity | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._identity = identity
        self._clock = clock
        self._signed: dict[Subject, deque[float]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="signing")
        self._waiting = 0

    def close(self) -> None:
        """Drops what waits; what is being signed is finished."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def authority(self) -> Authority:
        """The authority. Raises FednotError (NO_AUTHORITY) if the server has none."""
        if self._identity is None or self._identity.authority is None:
            raise FednotError(Reason.NO_AUTHORITY, "this server signs no certificates")
        return self._identity.authority

    @contextmanager
    def turn(self, subject: Subject) -> Iterator[None]:
        """Takes one of the subject's turns; given back if what is within raises an error.

        A call that was given up keeps it: it may have been signed. Raises FednotError
        (SERVER_BUSY).
        """
        now = self._clock()
        turns = self._signed.setdefault(subject, deque())
        while turns and now - turns[0] >= WINDOW:
            turns.popleft()
        if len(turns) >= MOST_SIGNED:
            raise FednotError(
                Reason.SERVER_BUSY,
                f"{MOST_SIGNED} certificates were signed for {subject} within {WINDOW:g} s",
                retry_after=WINDOW - (now - turns[0]),
            )
        turns.append(now)
        try:
            yield
        except Exception:
            with suppress(ValueError):
                turns.remove(now)
            raise

    async def check_new(self, subject: Subject, key: str = "") -> None:
        """Raises FednotError (CLIENT_HAS_CERTIFICATE) if a client has a usable certificate of
        another key, or SERVER_BUSY, INTERNAL.
        """
        found = await self._run(lambda: self.authority.usable_certificate(subject))
        if found is not None and found.key_digest != key:
            raise FednotError(
                Reason.CLIENT_HAS_CERTIFICATE,
                f"{subject} has a certificate already, until {found.ends:%Y-%m-%d}",
                metadata={"client": subject.name},
            )

    async def sign(
        self,
        request_pem: bytes,
        subject: Subject,
        *,
        holder: int | None = None,
        granted_at: float | None = None,
    ) -> identity_pb2.SignedCertificate:
        """Signs a request for a subject, within a turn of it.

        `holder` is the serial number of the certificate that the caller shows, `granted_at` when
        its token was made. Raises FednotError (NO_AUTHORITY, INVALID_CERTIFICATE_REQUEST,
        CERTIFICATE_REVOKED, SERVER_BUSY, INTERNAL).
        """
        authority = self.authority
        check_request(request_pem, subject)
        signed = await self._run(
            lambda: authority.sign(request_pem, subject, holder=holder, granted_at=granted_at)
        )
        await self._follow(signed)
        log.info("signed a certificate for %s", subject)
        return identity_pb2.SignedCertificate(
            chain=signed.chain, trust=signed.trust, expires_at=timestamp(signed.expires_at)
        )

    async def _run(self, job: Callable[[], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise _busy("many ask for certificates just now")
        self._waiting += 1
        loop, asked_at = asyncio.get_running_loop(), time.monotonic()
        try:
            return await loop.run_in_executor(self._thread, _in_time, job, asked_at)
        except AuthorityBusyError as error:
            raise _busy("the authority is being changed by another process") from error
        except AuthorityError as error:
            log.exception("the authority cannot be used")
            raise FednotError(
                Reason.INTERNAL, "the authority cannot be used; the server's log says why"
            ) from error
        finally:
            self._waiting -= 1

    async def _follow(self, signed: Signed) -> None:
        """What a rotated authority has signed must be trusted when it is shown, at once."""
        if self._identity is not None and signed.trust != self._identity.trust:
            await self._identity.refresh()


def _in_time(job: Callable[[], T], asked_at: float) -> T:
    if time.monotonic() - asked_at > LONGEST_WAIT:
        raise _busy("the authority had no time")
    return job()


def _busy(why: str) -> FednotError:
    return FednotError(Reason.SERVER_BUSY, why, retry_after=LONGEST_WAIT)


def check_request(request_pem: bytes, subject: Subject) -> str:
    """The digest of the key that a request is for.

    Raises FednotError (INVALID_CERTIFICATE_REQUEST) if it is bad or is for another subject.
    """
    return key_digest(requested_key(request_pem, subject))
