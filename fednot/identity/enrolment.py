"""How a machine gets its certificate and renews it; the private key never leaves the machine."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from fednot.channel import open_enrolment_channel
from fednot.errors import REMEDY_KEY, FednotError, Reason
from fednot.identity import certificates
from fednot.identity.certificates import PrivateKey
from fednot.identity.folder import (
    CERTIFICATE,
    KEY,
    Credentials,
    read_credentials,
    write_credentials,
    write_private,
)
from fednot.identity.replacement import replace
from fednot.identity.subject import Subject, SubjectError
from fednot.identity.token import Token
from fednot.v1 import identity_pb2, identity_pb2_grpc


def enroll(address: str, token: Token, folder: Path, *, timeout: float) -> Credentials:
    """Trades a one-time token for a certificate, and writes the identity into a folder.

    The key is written first and is used again when this is repeated, since the server knows a
    repetition after a lost reply by it. `timeout` is in seconds. Raises grpc.RpcError if the call
    fails, FednotError (INVALID_IDENTITY) if the folder cannot be used, (INVALID_CERTIFICATE) for an
    answer that does not fit, and OSError if the folder cannot be written.
    """
    key = enrolment_key(folder)
    request = identity_pb2.EnrollRequest(
        secret=token.secret,
        certificate_request=certificates.request_pem(certificates.request(token.subject, key)),
    )
    with closing(open_enrolment_channel(address, token.trust)) as channel:
        stub = identity_pb2_grpc.EnrolmentServiceStub(channel)
        signed = stub.Enroll(request, timeout=timeout).certificate
    _check(signed, token.subject, key)
    write_credentials(folder, chain=signed.chain, trust=signed.trust)
    return read_credentials(folder)


def enrolment_key(folder: Path) -> PrivateKey:
    """The key to enrol with: the one that waits in the folder for its certificate, or a new one.

    Raises FednotError (INVALID_IDENTITY) if the folder has a certificate already or its key cannot
    be read, OSError if it cannot be written.
    """
    held = _present(folder, CERTIFICATE)
    if held is not None:
        raise _invalid(
            f"{held} is there already", "Renew it by `fednot certs renew`, or name another folder."
        )
    waiting = _present(folder, KEY)
    if waiting is not None:
        try:
            return certificates.read_key(waiting.read_bytes())
        except (OSError, ValueError) as error:
            raise _invalid(
                f"{waiting} holds no usable private key: {error}",
                "Name another folder, or remove that file if nothing uses it.",
            ) from error
    key = certificates.new_key()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(folder / KEY[0], certificates.key_pem(key))
    return key


@dataclass(frozen=True)
class Renewal:
    """A new key for an identity, and the request that its certificate be signed."""

    credentials: Credentials
    key: PrivateKey = field(repr=False)
    request: identity_pb2.RenewCertificateRequest

    @classmethod
    def of(cls, credentials: Credentials) -> Self:
        """Makes the key, in memory only."""
        key = certificates.new_key()
        request = certificates.request(credentials.subject, key)
        pem = certificates.request_pem(request)
        message = identity_pb2.RenewCertificateRequest(certificate_request=pem)
        return cls(credentials, key, message)

    def take(self, signed: identity_pb2.SignedCertificate) -> Credentials:
        """Puts what was signed in the place of the identity's files.

        Raises FednotError (INVALID_CERTIFICATE) if it is not what was asked for, OSError if the
        files cannot be written.
        """
        _check(signed, self.credentials.subject, self.key)
        folder, key = self.credentials.folder, certificates.key_pem(self.key)
        return replace(folder, chain=signed.chain, trust=signed.trust, key=key)


def _check(signed: identity_pb2.SignedCertificate, subject: Subject, key: PrivateKey) -> None:
    try:
        found = certificates.read_certificates(signed.chain)[0]
        trusted = certificates.read_certificates(signed.trust)
        given = certificates.subject_of(found)
    except (SubjectError, ValueError) as error:
        raise _unfit(f"it cannot be read: {error}") from error
    if given != subject:
        raise _unfit(f"it is that of {given.uri}, not of {subject.uri}")
    if not certificates.same_key(found.public_key(), key.public_key()):
        raise _unfit("it is for another key")
    if not any(certificates.issued_by(found, authority) for authority in trusted):
        raise _unfit("none of the authorities that came with it issued it")


def _present(folder: Path, names: tuple[str, str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _invalid(message: str, remedy: str) -> FednotError:
    return FednotError(Reason.INVALID_IDENTITY, message, metadata={REMEDY_KEY: remedy})


def _unfit(why: str) -> FednotError:
    return FednotError(
        Reason.INVALID_CERTIFICATE, f"the certificate that the server signed cannot be used: {why}"
    )
