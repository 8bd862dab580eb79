"""What is trusted: the authorities, less what they revoked; judges one certificate at a time."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from fednot.errors import FednotError, Reason
from fednot.identity.certificates import issued_by, read_certificates, subject_of
from fednot.identity.lifetime import dated
from fednot.identity.subject import Subject, SubjectError

_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----[^-]+-----END X509 CRL-----")


class Trust:
    """The authorities of a trust domain and the serial numbers that were revoked."""

    def __init__(
        self, authorities: Sequence[x509.Certificate], revoked: frozenset[int] = frozenset()
    ) -> None:
        self.authorities = tuple(authorities)
        self.revoked = revoked

    @classmethod
    def of_pem(cls, authorities: bytes, revocations: bytes | None = None) -> Self:
        """Reads authorities, and the lists of what they revoked; None if there are none to heed.

        Lists of other authorities change nothing. Raises ValueError for PEM that cannot be read or
        was cut off, or unless each authority has one list: silently passing over a missing one
        would let revoked certificates in.
        """
        found = read_certificates(authorities)
        if revocations is None:
            return cls(found)
        lists = _lists(revocations)
        revoked = {row.serial_number for each in found for row in _list_of(each, lists)}
        return cls(found, frozenset(revoked))

    def check(self, certificate: x509.Certificate, at: dt.datetime) -> Subject:
        """Who a certificate is for, if it is to be trusted at a moment.

        Raises FednotError (UNTRUSTED_CERTIFICATE, CERTIFICATE_REVOKED, CERTIFICATE_EXPIRED,
        CERTIFICATE_NOT_YET_VALID, INVALID_CERTIFICATE).
        """
        standing = [a for a in self.authorities if a.not_valid_after_utc >= at]
        if not any(issued_by(certificate, authority) for authority in standing):
            raise FednotError(
                Reason.UNTRUSTED_CERTIFICATE,
                f"the certificate of {described(certificate)} was issued by "
                f"{certificate.issuer.rfc4514_string()}, which is not trusted here",
            )
        check_dates(certificate, at)
        if certificate.serial_number in self.revoked:
            raise FednotError(
                Reason.CERTIFICATE_REVOKED,
                f"the certificate of {described(certificate)} with serial number "
                f"{certificate.serial_number:x} was revoked",
            )
        try:
            return subject_of(certificate)
        except SubjectError as error:
            raise FednotError(
                Reason.INVALID_CERTIFICATE, f"the certificate is none of fednot's: {error}"
            ) from error


def _lists(pem: bytes) -> list[x509.CertificateRevocationList]:
    found = _CRL.findall(pem)
    if (pem.strip() and not found) or b"-----" in _CRL.sub(b"", pem):
        raise ValueError("it is not made of revocation lists in PEM form, or was cut off")
    try:
        return [x509.load_pem_x509_crl(each) for each in found]
    except x509.InvalidVersion as error:
        raise ValueError(f"it holds a revocation list that cannot be read: {error}") from error


def _list_of(
    authority: x509.Certificate, lists: Sequence[x509.CertificateRevocationList]
) -> x509.CertificateRevocationList:
    try:
        key = authority.public_key()
    except UnsupportedAlgorithm as error:
        raise ValueError(f"an authority has a key of an unknown kind: {error}") from error
    own = [
        each
        for each in lists
        if each.issuer == authority.subject and each.is_signature_valid(key)  # type: ignore[arg-type]
    ]
    if len(own) != 1:
        name = authority.subject.rfc4514_string()
        many = "several revocation lists" if own else "no revocation list"
        raise ValueError(f"it holds {many} of {name}")
    return own[0]


def check_dates(certificate: x509.Certificate, at: dt.datetime, place: str = "") -> None:
    """Raises FednotError (CERTIFICATE_EXPIRED, CERTIFICATE_NOT_YET_VALID) with the date.

    `place` names the file it came from.
    """
    whose = f"the certificate of {described(certificate)}" + (f" in {place}" if place else "")
    if at > certificate.not_valid_after_utc:
        raise FednotError(
            Reason.CERTIFICATE_EXPIRED,
            f"{whose} expired on {dated(certificate.not_valid_after_utc)}, and the clock here says "
            f"{dated(at)}",
        )
    if at < certificate.not_valid_before_utc:
        raise FednotError(
            Reason.CERTIFICATE_NOT_YET_VALID,
            f"{whose} is valid from {dated(certificate.not_valid_before_utc)} on, and the clock "
            f"here says {dated(at)}",
        )


def described(certificate: x509.Certificate) -> str:
    """A certificate's subject for a sentence."""
    try:
        return str(subject_of(certificate))
    except SubjectError:
        return certificate.subject.rfc4514_string() or "nobody"
