"""What an authority has issued and revoked.

A file for each certificate, by serial number, and one for the revocations. Who signed it is told by
its key identifier: a check of each signature would be slow, and only the owner writes here.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography import x509

from fednot.identity import certificates
from fednot.identity.faults import AuthorityError
from fednot.identity.folder import write_private
from fednot.identity.revocations import Revocation, Revocations
from fednot.identity.subject import Subject, SubjectError

ISSUED: Final = "issued"
KEPT: Final = dt.timedelta(days=30)
"""What ended is forgotten so long after."""
FEW: Final = 3
"""So many certificates are named where one was looked for."""
SERIAL_DIGITS: Final = 40
"""The most that a serial number has (RFC 5280, section 4.1.2.2), in hexadecimal."""
PRUNED: Final = ".pruned"
PRUNED_EVERY: Final = dt.timedelta(days=1)


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

    `current` tells that the newest authority did, `trusted` that one did that is not retired;
    `issuer` is that one's key identifier.
    """

    subject: Subject
    serial: int
    begins: dt.datetime
    ends: dt.datetime
    key_digest: str
    issuer: str
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
        self._folder: Final = directory / ISSUED
        self.revocations: Final = Revocations(self._folder)

    def record(self, certificate: x509.Certificate) -> None:
        """Records a certificate, before it is handed out."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        place = self._folder / f"{certificate.serial_number:x}.pem"
        write_private(place, certificates.pem_of([certificate]))

    def revoke(self, chosen: Sequence[Issued], at: dt.datetime) -> list[Issued]:
        """Records that certificates are revoked from a moment on, unless they were; gives them back
        as they are then.
        """
        fresh = {each.serial for each in chosen if each.revoked_at is None}
        if not fresh:
            return list(chosen)
        found = [each if each.revoked_at else replace(each, revoked_at=at) for each in chosen]
        added = [_revocation(each, at) for each in found if each.serial in fresh]
        self.revocations.write([*self.revocations.read(), *added])
        return found

    def read(
        self, authorities: Sequence[x509.Certificate], of: Subject | None = None
    ) -> list[Issued]:
        """All certificates, or those `of` a subject, by subject, then oldest first. `authorities`
        are those in trust.

        Raises AuthorityError for a file that cannot be read.
        """
        by = [certificates.key_identifier(authority) for authority in authorities]
        revoked = {each.serial: each.at for each in self.revocations.read()}
        uri = b"" if of is None else of.uri.encode()
        found = []
        for path in self._records():
            certificate = _read(path)
            if uri in certificate.tbs_certificate_bytes:  # a prefix at least, and quickly told
                found.append(_issued(path, certificate, by, revoked))
        chosen = [each for each in found if of in (None, each.subject)]
        return sorted(chosen, key=lambda each: (each.subject, each.begins, each.ends, each.serial))

    def prune(self, at: dt.datetime) -> None:
        """Forgets, once a day, the certificates that ended KEPT before a moment.

        A record that cannot be read stays.
        """
        if not self._is_due(at):
            return
        for path in self._records():
            with contextlib.suppress(AuthorityError):
                if _read(path).not_valid_after_utc + KEPT < at:
                    path.unlink(missing_ok=True)
        revoked = self.revocations.read()
        kept = [each for each in revoked if each.ends + KEPT >= at]
        if len(kept) < len(revoked):
            self.revocations.write(kept)
        pruned = self._folder / PRUNED
        pruned.touch(mode=0o600)
        os.utime(pruned, (at.timestamp(), at.timestamp()))

    def _is_due(self, at: dt.datetime) -> bool:
        try:
            last = (self._folder / PRUNED).stat().st_mtime
        except FileNotFoundError:
            return True
        return abs(at.timestamp() - last) >= PRUNED_EVERY.total_seconds()

    def _records(self) -> list[Path]:
        return sorted(self._folder.glob("*.pem"))


def _read(path: Path) -> x509.Certificate:
    try:
        return certificates.read_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AuthorityError(f"{path} cannot be read: {error}") from error


def _issued(
    path: Path,
    certificate: x509.Certificate,
    authorities: Sequence[str],
    revoked: Mapping[int, dt.datetime],
) -> Issued:
    try:
        subject = certificates.subject_of(certificate)
    except SubjectError as error:
        raise AuthorityError(f"{path}: {error}") from error
    issuer = certificates.issuer_identifier(certificate)
    return Issued(
        subject=subject,
        serial=certificate.serial_number,
        begins=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
        key_digest=certificates.key_digest(certificate.public_key()),
        issuer=issuer,
        revoked_at=revoked.get(certificate.serial_number),
        current=issuer in authorities[:1],
        trusted=issuer in authorities,
    )


def _revocation(found: Issued, at: dt.datetime) -> Revocation:
    return Revocation(
        found.serial, at, found.ends, found.subject.uri, found.key_digest, found.issuer
    )


def of_serial(found: Sequence[Issued], beginning: str) -> list[Issued]:
    """The certificate whose serial number, in hexadecimal, begins so; ":" between digits is fine.

    Raises AuthorityError if there is none, or if there are several, with a few of them.
    """
    wanted = beginning.lower().removeprefix("0x").replace(":", "").lstrip("0")
    chosen = [each for each in found if wanted and f"{each.serial:x}".startswith(wanted)]
    if len(chosen) > 1:
        raise AuthorityError(
            f"several serial numbers begin with {beginning}: {listed(chosen, FEW)}"
        )
    if not chosen:
        raise AuthorityError(
            f"no certificate has the serial number {_shortened(beginning)}; {_there(found)}"
        )
    return chosen


def of_subject(found: Sequence[Issued], subject: Subject) -> list[Issued]:
    """The usable certificates of a subject.

    Raises AuthorityError if there is none, with the newest that it had, or the name next to its.
    """
    at = certificates.now()
    chosen = [each for each in found if each.subject == subject and each.usable(at)]
    if not chosen:
        own = [each for each in found if each.subject == subject]
        there = f"there is {listed(own[::-1], FEW)}" if own else _there(found, subject)
        raise AuthorityError(f"{subject} has no certificate to revoke; {there}")
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


def _there(found: Sequence[Issued], wanted: Subject | None = None) -> str:
    if not found:
        return "none was issued yet"
    names = {str(each.subject) for each in found}
    near = difflib.get_close_matches(str(wanted), names, n=1) if wanted else []
    meant = f"the nearest name is {near[0]}, and " if near else ""
    return f"{meant}`fednot certs list` shows what there is"


def _shortened(text: str) -> str:
    return text if len(text) <= SERIAL_DIGITS else text[:SERIAL_DIGITS] + "..."
