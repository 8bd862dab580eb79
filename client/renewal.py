"""Keeps a client's identity fresh: takes up new files, renews in time, warns before the end."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from grpc import aio

from client.connection import refusal_of
from client.dialler import Dialler
from client.metrics import ClientMetrics
from fednot.errors import FednotError
from fednot.identity import certificates, lifetime
from fednot.identity.diagnosis import file_of
from fednot.identity.enrolment import Renewal
from fednot.identity.folder import CERTIFICATE, Credentials, WatchedFolder, read_credentials
from fednot.v1 import identity_pb2

LOOK_SECONDS: Final = 1.0
CALL_SECONDS: Final = 15.0
FIRST_PAUSE: Final = 30.0
LONGEST_PAUSE: Final = 3600.0
SETTLING_SECONDS: Final = 5.0
"""Whoever replaces the files of an identity does so one after the other."""
WARNING_PAUSE: Final = 24 * 3600.0

_log = logging.getLogger("client")


class RenewalError(Exception):
    """A renewal that did not take place; the message says why, and what to do if anything."""


class IdentityKeeper:
    """Looks after the identity that the dialler shows.

    Nothing that goes wrong here ends the client: it is told once, and the certificate in use serves
    until its end. `clock` counts seconds; it is not the clock that certificates go by.
    """

    def __init__(
        self,
        watched: WatchedFolder,
        dialler: Dialler,
        metrics: ClientMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current = watched.current
        self._watched = watched
        self._dialler = dialler
        self._metrics = metrics
        self._clock = clock
        self._wanted_trust = ""
        self._pause = FIRST_PAUSE
        self._not_before = float("-inf")
        self._told = ""
        self._unsettled_since: float | None = None
        self._warned_at = float("-inf")
        metrics.certificate_ends(_end(self.current))

    def told_trust(self, digest: str) -> None:
        """The server says which authorities it trusts, as sha256 of their PEM; "" if it signs none.

        If this client trusts others, it renews at once.
        """
        if digest and digest != self._wanted_trust:
            self._wanted_trust = digest
            self._pause, self._not_before = FIRST_PAUSE, float("-inf")

    async def run(self) -> None:
        """Looks after it until it is cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                _log.exception("looking after the identity failed; the certificate in use stays")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Does what is due now."""
        self._take_up()
        if self._due() and self._clock() >= self._not_before:
            await self._renew()
        self._warn()

    def _take_up(self) -> None:
        try:
            changed = self._watched.changed()
        except FednotError:
            self._unsettled_since = self._clock()
            return
        if changed:
            self._unsettled_since = None
            self._use(self._watched.current)
        elif self._unsettled():
            self._unsettled_since = None
            self._tell_unusable()

    def _unsettled(self) -> bool:
        since = self._unsettled_since
        return since is not None and self._clock() - since >= SETTLING_SECONDS

    def _tell_unusable(self) -> None:
        try:
            read_credentials(self._watched.folder)
        except FednotError as error:
            _log.warning("%s (the certificate in use stays)", error.advice)

    def _use(self, credentials: Credentials) -> None:
        if credentials.subject != self.current.subject:
            _log.error(
                "%s now holds the identity of %s, and this client is %s: it goes on with the "
                "certificate before; restart it to change its name",
                credentials.folder,
                credentials.subject.uri,
                self.current.subject.uri,
            )
            self._watched.current = self.current
            return
        self.current = credentials
        self._warned_at = float("-inf")
        self._metrics.certificate_ends(_end(credentials))
        self._dialler.redial(credentials)
        _log.info("took up the new certificate of %s, which ends %s", *_whose_end(credentials))

    def _due(self) -> bool:
        wanted = self._wanted_trust
        if wanted and hashlib.sha256(self.current.trust).hexdigest() != wanted:
            return True
        return certificates.now() >= lifetime.renewal_due(self.current.certificate)

    async def _renew(self) -> None:
        self._not_before = self._clock() + self._paused()
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        try:
            await self._renewed()
        except RenewalError as error:
            if str(error) != self._told:
                _log.warning("the certificate was not renewed: %s", error)
            self._told = str(error)
            return
        self._told = ""
        self._take_up()
        if not self._due():
            self._pause, self._not_before = FIRST_PAUSE, float("-inf")

    def _paused(self) -> float:
        """Longer after each attempt, but short enough for ten more before the certificate ends."""
        left = (self.current.certificate.not_valid_after_utc - certificates.now()).total_seconds()
        return min(self._pause, max(left / 10, 1.0)) if left > 0 else self._pause

    async def _renewed(self) -> None:
        folder = self.current.folder
        if not os.access(folder, os.W_OK):
            raise RenewalError(
                f"{folder} cannot be written; put the new files there, and they will be taken up"
            )
        renewal = Renewal.of(self.current)
        try:
            signed = await self._signed(renewal)
            await asyncio.to_thread(renewal.take, signed)
        except FednotError as error:
            raise RenewalError(error.advice) from error
        except OSError as error:
            raise RenewalError(f"{folder} cannot be written: {error.strerror}") from error

    async def _signed(self, renewal: Renewal) -> identity_pb2.SignedCertificate:
        try:
            with self._dialler.line() as line:
                answer = await line.identity.RenewCertificate(renewal.request, timeout=CALL_SECONDS)
        except aio.AioRpcError as error:
            refusal = refusal_of(error)
            raise refusal or RenewalError(f"{self._dialler.address} did not answer") from error
        return answer.certificate

    def _warn(self) -> None:
        if not lifetime.ends_soon(self.current.certificate, certificates.now()):
            return
        if self._clock() - self._warned_at < WARNING_PAUSE:
            return
        self._warned_at = self._clock()
        place = file_of(self.current.folder, CERTIFICATE)
        why = f" (not renewed: {self._told})" if self._told else ""
        whose, end = _whose_end(self.current)
        _log.warning("the certificate of %s in %s ends %s%s", whose, place, end, why)


def _whose_end(credentials: Credentials) -> tuple[str, str]:
    end = lifetime.remaining(credentials.certificate, certificates.now())
    return str(credentials.subject), end


def _end(credentials: Credentials) -> float:
    return credentials.certificate.not_valid_after_utc.timestamp()
