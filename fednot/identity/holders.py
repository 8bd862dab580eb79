"""Those who show a certificate with each call: judged each time, at the cost of a look-up."""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from fednot.errors import FednotError, Reason
from fednot.identity.certificates import issued_by, read_certificate, subject_of
from fednot.identity.subject import Subject, SubjectError
from fednot.identity.trust import Trust

Certificate = x509.Certificate

MOST_REMEMBERED: Final = 4096


@dataclass(frozen=True)
class Holder:
    """Who holds a certificate of a trusted authority; times in seconds since the epoch.

    `until` is when the certificate ends, or its authority if that is earlier.
    """

    subject: Subject
    begins: float
    ends: float
    until: float


class Holders:
    """Judges certificates against a trust that does not change, and remembers whom it knows.

    Signatures are checked once for each certificate; dates are compared at each call. A trust that
    was read anew, after a revocation say, takes new Holders. Thread-safe.
    """

    def __init__(self, trust: Trust, domain: str) -> None:
        self._trust = trust
        self._domain = domain
        self._known: dict[bytes, Holder] = {}
        self._remembering = threading.Lock()

    def judge(self, pem: bytes, at: float) -> Holder:
        """Who shows a certificate, if it holds at a moment (seconds since the epoch).

        Raises FednotError (INVALID_CERTIFICATE, UNTRUSTED_CERTIFICATE, CERTIFICATE_EXPIRED,
        CERTIFICATE_NOT_YET_VALID, CERTIFICATE_REVOKED).
        """
        known = self._known.get(pem)
        if known is not None and known.begins <= at <= known.until:
            return known
        certificate = _read(pem)
        subject = self._trust.check(certificate, dt.datetime.fromtimestamp(at, dt.UTC))
        if subject.domain != self._domain:
            raise FednotError(
                Reason.INVALID_CERTIFICATE,
                f"the certificate of {subject} is for the trust domain {subject.domain!r}; "
                f"this federation's is {self._domain!r}",
            )
        return self._remember(pem, self._holder(certificate, subject))

    def named_in(self, pem: bytes) -> Subject | None:
        """Whom a certificate of a trusted authority and of this domain names, whether or not it
        holds now.
        """
        try:
            certificate = _read(pem)
            if not any(issued_by(certificate, a) for a in self._trust.authorities):
                return None
            subject = subject_of(certificate)
        except (FednotError, SubjectError):
            return None
        return subject if subject.domain == self._domain else None

    def _holder(self, certificate: x509.Certificate, subject: Subject) -> Holder:
        ends = certificate.not_valid_after_utc
        issuers = [a for a in self._trust.authorities if issued_by(certificate, a)]
        issuers_end = max(authority.not_valid_after_utc for authority in issuers)
        return Holder(
            subject,
            begins=certificate.not_valid_before_utc.timestamp(),
            ends=ends.timestamp(),
            until=min(ends, issuers_end).timestamp(),
        )

    def _remember(self, pem: bytes, holder: Holder) -> Holder:
        with self._remembering:
            while len(self._known) >= MOST_REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[pem] = holder
        return holder


def _read(pem: bytes) -> x509.Certificate:
    try:
        return read_certificate(pem)
    except ValueError as error:
        raise FednotError(
            Reason.INVALID_CERTIFICATE, f"the certificate cannot be read: {error}"
        ) from error
