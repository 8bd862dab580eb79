"""Signatures by the keys of certificates: nobody can put keys of their own in a client's place."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.identity.folder import Credentials
from fednot.identity.subject import Role
from fednot.identity.trust import Trust

MOST_CHAIN_BYTES: Final = 32 << 10
_ECDSA: Final = ec.ECDSA(SHA256())


class Signer(Protocol):
    """Signs for a client, and knows whom others are."""

    @property
    def chain(self) -> bytes:
        """The client's certificate and its issuers, PEM."""
        ...

    def sign(self, message: bytes) -> bytes:
        """A signature by the key of the certificate."""
        ...

    def check(self, client: str, chain: bytes, message: bytes, signature: bytes) -> None:
        """Raises FednotError (MASKING_FAILED) unless that client signed the message."""
        ...


class CertificateSigner:
    """Signs with an identity, and trusts the authorities that it trusts."""

    def __init__(
        self, credentials: Credentials, now: Callable[[], dt.datetime] = certificates.now
    ) -> None:
        self.chain: Final = credentials.chain
        self._key = certificates.read_key(credentials.private_key)
        self._authorities = certificates.read_certificates(credentials.trust)
        self._domain = credentials.subject.domain
        self._now = now

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256, DER."""
        return self._key.sign(message, _ECDSA)

    def check(self, client: str, chain: bytes, message: bytes, signature: bytes) -> None:
        """Raises FednotError (MASKING_FAILED) unless that client signed the message."""
        try:
            leaf = self._leaf_of(client, chain)
            key = leaf.public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise _failed(f"the certificate of {client} has no key that can sign")
            key.verify(signature, message, _ECDSA)
        except InvalidSignature:
            raise _failed(f"{client} did not sign what is shown as its own") from None
        except (ValueError, FednotError) as error:
            raise _failed(f"the certificate shown for {client} is not good: {error}") from error

    def _leaf_of(self, client: str, chain: bytes) -> x509.Certificate:
        if len(chain) > MOST_CHAIN_BYTES:
            raise ValueError(f"it has {len(chain)} bytes")
        found = certificates.read_certificates(chain)
        now = self._now()
        between = _vouched_for(found[1:], self._authorities, now)
        subject = Trust((*self._authorities, *between)).check(found[0], now)
        if subject.role is not Role.CLIENT or subject.name != client:
            raise ValueError(f"it is that of {subject}")
        if subject.domain != self._domain:
            raise ValueError(f"it is of the trust domain {subject.domain!r}")
        return found[0]


def _vouched_for(
    between: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate], now: dt.datetime
) -> list[x509.Certificate]:
    """Newer authorities that a trusted one signed: the cross-signed ones of a rotation."""
    return [
        each
        for each in between
        if _is_authority(each)
        and each.not_valid_before_utc <= now <= each.not_valid_after_utc
        and any(certificates.issued_by(each, authority) for authority in trusted)
    ]


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False


def _failed(message: str) -> FednotError:
    return FednotError(Reason.MASKING_FAILED, message)
