"""When certificates are renewed, and how often people are told that one ends."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from typing import Final

from fednot.identity.holders import Certificate
from fednot.identity.lifetime import ends_soon, remaining, renewal_due

log = logging.getLogger("server.identity")

RENEWAL_PAUSE: Final = 60.0
TOLD_EVERY: Final = 24 * 3600.0


class Upkeep:
    """Paces renewals and warnings; `clock` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._renewed_at = float("-inf")
        self._told: dict[str, float] = {}

    def may_renew(self) -> bool:
        """Whether the last attempt is long enough ago."""
        return self._clock() - self._renewed_at >= RENEWAL_PAUSE

    def is_due(self, certificate: Certificate) -> bool:
        """Whether a certificate is to be renewed now."""
        return self.may_renew() and self._now() >= renewal_due(certificate)

    def renews(self) -> None:
        """Notes an attempt to renew."""
        self._renewed_at = self._clock()

    def warn_of(self, certificate: Certificate, what: str, remedy: str) -> None:
        """Warns once a day of a certificate that ends soon."""
        now = self._now()
        if ends_soon(certificate, now):
            self.complain(what, f"{what} ends on {remaining(certificate, now)}. {remedy}")

    def complain(self, kind: str, sentence: str) -> None:
        """Puts a warning into the log, at most once a day for each kind."""
        now = self._clock()
        if now - self._told.get(kind, float("-inf")) >= TOLD_EVERY:
            self._told[kind] = now
            log.warning("%s", sentence)

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock(), dt.UTC)
