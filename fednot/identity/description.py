"""What a certificate says, for people and programs that know nothing of X.509."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Self

from cryptography import x509

from fednot.identity import certificates


@dataclass(frozen=True)
class Description:
    """A certificate's own words; `key_digest` is the sha256 of its public key in hexadecimal."""

    name: str
    issuer: str
    serial: int
    key_digest: str
    begins: dt.datetime
    ends: dt.datetime
    hosts: tuple[str, ...]

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """Reads a certificate."""
        return cls(
            name=certificates.common_name_of(certificate),
            issuer=certificates.issuer_of(certificate),
            serial=certificate.serial_number,
            key_digest=certificates.key_digest(certificate.public_key()),
            begins=certificate.not_valid_before_utc,
            ends=certificate.not_valid_after_utc,
            hosts=certificates.hosts_of(certificate),
        )

    @classmethod
    def of_pem(cls, pem: bytes) -> tuple[Self, ...]:
        """Reads certificates in PEM form. Raises ValueError."""
        return tuple(cls.of(found) for found in certificates.read_certificates(pem))
