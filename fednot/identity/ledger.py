"""What an authority has issued and revoked: a file for each certificate, by serial number."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography import x509

from fednot.identity import certificates
from fednot.identity.faults import AuthorityError
from fednot.identity.folder import write_private
from fednot.identity.keyring import Signer
from fednot.identity.subject import Subject, SubjectError

ISSUED: Final = "issued"


class State(StrEnum):
    """What an issued certificate is good for."""

    VALID = "valid"
    OLDER = "older authority"
    NOT_YET_VALID = "not yet valid"
    EXPIRED = "expired"
    REVOKED = "revoked"
    RETIRED = "retired authority"


@dataclass(frozen=True)
class Issued:
    """A certificate that an authority issued.

    `current` tells that the newest authority did, `trusted` that one did that is not retired.
    """

    subject: Subject
    serial: int
    begins: dt.datetime
    ends: dt.datetime
    key_digest: str
    revoked_at: dt.datetime | None
    current: bool
    trusted: bool

    def state(self, at: dt.datetime) -> State:
        """What it is good for at a moment; OLDER is as good as VALID until that one is retired."""
        if self.revoked_at is not None:
            return State.REVOKED
        if at > self.ends:
            return State.EXPIRED
        if not self.trusted:
            return State.RETIRED
        if at < self.begins:
            return State.NOT_YET_VALID
        return State.VALID if self.current else State.OLDER

    def usable(self, at: dt.datetime) -> bool:
        """Whether it opens a door, now or later."""
        return self.state(at) in (State.VALID, State.OLDER, State.NOT_YET_VALID)


class Ledger:
    """The folder `issued` of an authority; its lock must be held to change it."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / ISSUED

    def record(self, certificate: x509.Certificate) -> None:
        """Records a certificate, before it is handed out."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_private(self._certificate(certificate), certificates.pem_of([certificate]))

    def revoke(self, serial: int, at: dt.datetime) -> None:
        """Records that a certificate is revoked from a moment on."""
        write_private(self._revocation(serial), f"{at.isoformat()}\n".encode())

    def read(self, authorities: Sequence[x509.Certificate]) -> list[Issued]:
        """All certificates, by subject, then oldest first. `authorities` are those in trust.

        Raises AuthorityError for a file that cannot be read.
        """
        found = [self._issued(each, authorities) for each in self._certificates()]
        return sorted(found, key=lambda each: (each.subject, each.begins, each.ends, each.serial))

    def revocation_lists(self, signers: Sequence[Signer]) -> bytes:
        """One list for each signer, as PEM. Raises AuthorityError."""
        rows = [
            (each, at)
            for each in self._certificates()
            if (at := self._revoked_at(each.serial_number)) is not None
        ]
        return b"".join(
            certificates.revocation_list(
                [
                    (each.serial_number, at)
                    for each, at in rows
                    if certificates.issued_by(each, signer.certificate)
                ],
                signer.certificate,
                signer.key,
            )
            for signer in signers
        )

    def _certificate(self, certificate: x509.Certificate) -> Path:
        return self._folder / f"{certificate.serial_number:x}.pem"

    def _revocation(self, serial: int) -> Path:
        return self._folder / f"{serial:x}.revoked"

    def _certificates(self) -> list[x509.Certificate]:
        return [_read(path) for path in sorted(self._folder.glob("*.pem"))]

    def _issued(
        self, certificate: x509.Certificate, authorities: Sequence[x509.Certificate]
    ) -> Issued:
        by = [certificates.issued_by(certificate, authority) for authority in authorities]
        try:
            subject = certificates.subject_of(certificate)
        except SubjectError as error:
            raise AuthorityError(f"{self._certificate(certificate)}: {error}") from error
        return Issued(
            subject=subject,
            serial=certificate.serial_number,
            begins=certificate.not_valid_before_utc,
            ends=certificate.not_valid_after_utc,
            key_digest=certificates.key_digest(certificate.public_key()),
            revoked_at=self._revoked_at(certificate.serial_number),
            current=bool(by) and by[0],
            trusted=any(by),
        )

    def _revoked_at(self, serial: int) -> dt.datetime | None:
        path = self._revocation(serial)
        try:
            return dt.datetime.fromisoformat(path.read_text("ascii").strip())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise AuthorityError(f"{path} cannot be read: {error}") from error


def _read(path: Path) -> x509.Certificate:
    try:
        return certificates.read_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AuthorityError(f"{path} cannot be read: {error}") from error


def of_serial(found: Sequence[Issued], beginning: str) -> list[Issued]:
    """The certificate whose serial number, in hexadecimal, begins so; ":" between digits is fine.

    Raises AuthorityError if there is none or if there are several; it lists what there is.
    """
    wanted = beginning.lower().removeprefix("0x").replace(":", "").lstrip("0")
    chosen = [each for each in found if wanted and f"{each.serial:x}".startswith(wanted)]
    if len(chosen) > 1:
        raise AuthorityError(f"several serial numbers begin with {beginning}: {listed(chosen)}")
    if not chosen:
        raise AuthorityError(f"no certificate has the serial number {beginning}; {_there(found)}")
    return chosen


def of_subject(found: Sequence[Issued], subject: Subject) -> list[Issued]:
    """The usable certificates of a subject. Raises AuthorityError if there is none, with a list."""
    at = certificates.now()
    chosen = [each for each in found if each.subject == subject and each.usable(at)]
    if not chosen:
        own = [each for each in found if each.subject == subject]
        raise AuthorityError(f"{subject} has no certificate to revoke; {_there(own or found)}")
    return chosen


def listed(found: Sequence[Issued], most: int = 20) -> str:
    """Certificates in a sentence, the end cut off if there are many."""
    at = certificates.now()
    rows = [
        f"{each.subject} ({each.state(at)}, until {each.ends:%Y-%m-%d}, serial {each.serial:x})"
        for each in found[:most]
    ]
    rest = len(found) - most
    return ", ".join(rows) + (f" and {rest} more" if rest > 0 else "")


def _there(found: Sequence[Issued]) -> str:
    return f"there is {listed(found)}" if found else "none was issued yet"
