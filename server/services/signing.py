"""Signs certificate requests with the server's authority: off the loop, and not without end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.identity.authority import Authority, AuthorityError, Signed
from fednot.identity.certificates import key_digest, read_request
from fednot.identity.subject import Subject
from fednot.v1 import identity_pb2
from server.identity import ServerIdentity
from server.services.messages import timestamp

log = logging.getLogger("server.services")

MOST_REQUEST_BYTES: Final = 16 << 10
MOST_SIGNED: Final = 30
WINDOW: Final = 3600.0
"""So many certificates are signed for one name within so many seconds: each is kept on disk."""


class Signing:
    """The authority for callers; one who asks too often is told to wait."""

    def __init__(
        self, identity: ServerIdentity | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._identity = identity
        self._clock = clock
        self._signed: dict[Subject, deque[float]] = {}

    @property
    def authority(self) -> Authority:
        """The authority. Raises FednotError (NO_AUTHORITY) if the server has none."""
        if self._identity is None or self._identity.authority is None:
            raise FednotError(Reason.NO_AUTHORITY, "this server signs no certificates")
        return self._identity.authority

    async def sign(self, request_pem: bytes, subject: Subject) -> identity_pb2.SignedCertificate:
        """Signs a request for a subject.

        Raises FednotError (NO_AUTHORITY, INVALID_CERTIFICATE_REQUEST, SERVER_BUSY, INTERNAL).
        """
        authority = self.authority
        check_request(request_pem, subject)
        self._take_turn(subject)
        try:
            signed = await asyncio.to_thread(authority.sign, request_pem, subject)
        except AuthorityError as error:
            log.exception("the authority cannot sign")
            raise FednotError(
                Reason.INTERNAL, "the authority cannot sign; the server's log says why"
            ) from error
        await self._follow(signed)
        log.info("signed a certificate for %s", subject)
        return identity_pb2.SignedCertificate(
            chain=signed.chain, trust=signed.trust, expires_at=timestamp(signed.expires_at)
        )

    async def _follow(self, signed: Signed) -> None:
        """What a rotated authority has signed must be trusted when it is shown, at once."""
        if self._identity is not None and signed.trust != self._identity.trust:
            await self._identity.refresh()

    def _take_turn(self, subject: Subject) -> None:
        now = self._clock()
        turns = self._signed.setdefault(subject, deque(maxlen=MOST_SIGNED))
        if len(turns) == MOST_SIGNED and now - turns[0] < WINDOW:
            raise FednotError(
                Reason.SERVER_BUSY,
                f"{MOST_SIGNED} certificates were signed for {subject} within {WINDOW:g} s",
                retry_after=WINDOW - (now - turns[0]),
            )
        turns.append(now)


def check_request(request_pem: bytes, subject: Subject) -> str:
    """The digest of the key that a request is for.

    Raises FednotError (INVALID_CERTIFICATE_REQUEST) if it is bad or is for another subject.
    """
    try:
        if len(request_pem) > MOST_REQUEST_BYTES:
            raise ValueError(f"it has more than {MOST_REQUEST_BYTES} bytes")  # noqa: TRY301
        asked, key = read_request(request_pem)
    except ValueError as error:
        raise FednotError(
            Reason.INVALID_CERTIFICATE_REQUEST, f"the certificate request is refused: {error}"
        ) from error
    if asked != subject:
        raise FednotError(
            Reason.INVALID_CERTIFICATE_REQUEST,
            f"the certificate request is for {asked.uri}, and must be for {subject.uri}",
        )
    return key_digest(key)
