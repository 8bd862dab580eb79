"""What the files of the server's identity say: certificate, trusted authorities, revocations."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from fednot.errors import FednotError, Reason
from fednot.identity.authority import AuthorityError
from fednot.identity.certificates import issued_by
from fednot.identity.folder import Credentials, Signature, read_credentials, signature_of
from fednot.identity.holders import Certificate, Holders
from fednot.identity.subject import Role
from fednot.identity.trust import Trust, check_dates

AS_SERVER = {
    Reason.CERTIFICATE_EXPIRED: Reason.SERVER_CERTIFICATE_EXPIRED,
    Reason.CERTIFICATE_NOT_YET_VALID: Reason.SERVER_CERTIFICATE_NOT_YET_VALID,
}


@dataclass(frozen=True)
class IdentityFiles:
    """An identity as it was read, all files together.

    `mutual` demands a certificate of every caller in the handshake, `enrolment` asks for none.
    `issuer` is the trusted authority that issued the certificate, None if another one did.
    """

    credentials: Credentials
    holders: Holders
    mutual: grpc.ServerCertificateConfiguration
    enrolment: grpc.ServerCertificateConfiguration
    issuer: Certificate | None

    @classmethod
    def read(cls, folder: Path, revocations: Path | None) -> IdentityFiles:
        """Reads an identity and the revocation lists, without asking whether it holds now.

        Raises FednotError (INVALID_IDENTITY), or AuthorityError for revocation lists, that names
        the file and what is wrong with it.
        """
        credentials = read_credentials(folder)
        if credentials.subject.role is not Role.SERVER:
            raise FednotError(
                Reason.INVALID_IDENTITY,
                f"the certificate in {folder} is that of {credentials.subject}; the server needs "
                "one of a server: `fednot certs issue server`",
            )
        trust = _trust(credentials, revocations)
        pair = [(credentials.private_key, credentials.chain)]
        return cls(
            credentials,
            Holders(trust, credentials.subject.domain),
            grpc.ssl_server_certificate_configuration(pair, credentials.trust),
            grpc.ssl_server_certificate_configuration(pair),
            _issuer(credentials, trust),
        )

    def with_revocations(self, revocations: Path | None) -> IdentityFiles:
        """The same identity with revocation lists that were read anew. Raises AuthorityError."""
        trust = _trust(self.credentials, revocations)
        return replace(self, holders=Holders(trust, self.credentials.subject.domain))

    def check_dates(self, at: float) -> None:
        """Raises FednotError (SERVER_CERTIFICATE_EXPIRED, SERVER_CERTIFICATE_NOT_YET_VALID)."""
        moment = dt.datetime.fromtimestamp(at, dt.UTC)
        try:
            check_dates(self.credentials.certificate, moment, str(self.credentials.folder))
        except FednotError as error:
            raise FednotError(AS_SERVER[error.reason], error.message) from error


def signature(folder: Path, revocations: Path | None) -> Signature:
    """What tells whether any of the files was replaced."""
    return (*signature_of(folder), *lists_signature(revocations))


def lists_signature(revocations: Path | None) -> Signature:
    """What tells whether the revocation lists were replaced."""
    try:
        state = revocations.stat() if revocations else None
    except OSError:
        state = None
    return (("revocations", state.st_ino, state.st_mtime_ns, state.st_size),) if state else ()


def _trust(credentials: Credentials, revocations: Path | None) -> Trust:
    try:
        lists = revocations.read_bytes() if revocations else None
    except OSError as error:
        raise AuthorityError(
            f"{revocations} cannot be read: {error.strerror}; copy the authority's revoked.pem"
        ) from error
    try:
        return Trust.of_pem(credentials.trust, lists)
    except ValueError as error:
        raise AuthorityError(
            f"{revocations} cannot be used: {error}; copy the revoked.pem of the authority that "
            f"{credentials.folder} trusts"
        ) from error


def _issuer(credentials: Credentials, trust: Trust) -> Certificate | None:
    return next((a for a in trust.authorities if issued_by(credentials.certificate, a)), None)
