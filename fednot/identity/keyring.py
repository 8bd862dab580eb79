"""The keys of an authority: the one that signs, and older ones that are trusted until retired.

They lie in `ca/`, which is replaced as a whole: a crash leaves the old keys or the new ones.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from fednot.errors import FednotError
from fednot.identity import certificates
from fednot.identity.certificates import PrivateKey
from fednot.identity.faults import AuthorityError
from fednot.identity.folder import read_trust, write_private
from fednot.identity.subject import Subject

KEYS: Final = "ca"
DRAFT: Final = "ca.next"
REPLACED: Final = "ca.old"
_PREVIOUS: Final = "previous"


@dataclass(frozen=True)
class Signer:
    """An authority's certificate and its key."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    @classmethod
    def fresh(cls, domain: str, days: float) -> Self:
        """A new authority; its name holds the beginning of its key's digest, to tell it apart."""
        key = certificates.new_key()
        name = f"{domain[:40]} authority {certificates.key_digest(key.public_key())[:8]}"
        return cls(certificates.self_signed_authority(name, key, days, domain), key)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads cert.pem and key.pem. Raises AuthorityError."""
        try:
            certificate = read_trust(folder / "cert.pem")[0]
            key = certificates.read_key((folder / "key.pem").read_bytes())
        except FednotError as error:
            raise AuthorityError(error.message) from error
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise AuthorityError(f"{folder / 'key.pem'} cannot be used: {said}") from error
        if not certificates.same_key(key.public_key(), certificate.public_key()):
            raise AuthorityError(f"{folder / 'key.pem'} is not the key of {folder / 'cert.pem'}")
        return cls(certificate, key)

    def write(self, folder: Path) -> None:
        """Writes cert.pem and key.pem to a new folder."""
        folder.mkdir(mode=0o700)
        write_private(folder / "key.pem", certificates.key_pem(self.key))
        write_private(folder / "cert.pem", certificates.pem_of([self.certificate]), mode=0o644)

    def cross_signed(self, newer: Signer, domain: str) -> tuple[x509.Certificate, ...]:
        """The newer authority's certificate by this one; nothing if this one has ended."""
        if self.certificate.not_valid_after_utc <= certificates.now():
            return ()
        name = certificates.common_name_of(newer.certificate)
        return (
            certificates.cross_signed_authority(
                name, newer.key, self.certificate, self.key, domain
            ),
        )


@dataclass(frozen=True)
class Keyring:
    """The authority that signs, older ones that are still trusted (newest first), and the
    certificates by which who trusts an older one can follow to the newest.
    """

    current: Signer
    older: tuple[Signer, ...] = ()
    cross: tuple[x509.Certificate, ...] = ()

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads the keys of an authority's directory. Raises AuthorityError."""
        folder = directory / KEYS
        current = Signer.read(folder)
        if not certificates.domain_of(current.certificate):
            raise AuthorityError(
                f"{folder / 'cert.pem'} names no trust domain; make one by `fednot certs init`"
            )
        places = [place for place in (folder / _PREVIOUS).glob("*") if place.name.isdecimal()]
        older = [Signer.read(place) for place in sorted(places, key=lambda place: int(place.name))]
        try:
            path = folder / "cross.pem"
            cross = read_trust(path) if path.exists() else ()
        except FednotError as error:
            raise AuthorityError(error.message) from error
        return cls(current, tuple(older), cross)

    @property
    def domain(self) -> str:
        """The trust domain."""
        return certificates.domain_of(self.current.certificate)

    @property
    def signers(self) -> tuple[Signer, ...]:
        """All of them, newest first."""
        return (self.current, *self.older)

    @property
    def trust_pem(self) -> bytes:
        """The trusted authorities, newest first."""
        return certificates.pem_of(signer.certificate for signer in self.signers)

    def chain_pem(self, leaf: x509.Certificate) -> bytes:
        """A certificate and what leads from it to an older authority."""
        return certificates.pem_of([leaf, *self.cross])

    def rotated(self, days: float) -> Keyring:
        """With a new authority, which the present one vouches for."""
        newer = Signer.fresh(self.domain, days)
        cross = self.current.cross_signed(newer, self.domain) + self.cross
        return Keyring(newer, self.signers, cross)

    def retired(self) -> Keyring:
        """With the newest authority alone."""
        return Keyring(self.current)

    def check_lasts(self) -> None:
        """Raises AuthorityError if the newest authority has ended, and can sign nothing."""
        ends = self.current.certificate.not_valid_after_utc
        if ends <= certificates.now():
            raise AuthorityError(
                f"the authority ended on {ends:%Y-%m-%d}; make a new one by `fednot certs rotate`"
            )

    def signed(
        self, subject: Subject, public_key: object, days: float, hosts: tuple[str, ...]
    ) -> x509.Certificate:
        """A certificate by the newest authority. Raises AuthorityError."""
        self.check_lasts()
        try:
            return certificates.leaf(
                subject,
                public_key,  # type: ignore[arg-type]
                self.current.certificate,
                self.current.key,
                days=days,
                hosts=hosts,
            )
        except ValueError as error:
            raise AuthorityError(str(error)) from error

    def store(self, directory: Path) -> None:
        """Writes the keys in place of those that are there; the lock must be held."""
        draft, folder, replaced = (directory / name for name in (DRAFT, KEYS, REPLACED))
        shutil.rmtree(draft, ignore_errors=True)
        self.current.write(draft)
        (draft / _PREVIOUS).mkdir(mode=0o700)
        for index, signer in enumerate(self.older):
            signer.write(draft / _PREVIOUS / str(index))
        if self.cross:
            write_private(draft / "cross.pem", certificates.pem_of(self.cross), mode=0o644)
        if folder.exists():
            folder.rename(replaced)
        draft.rename(folder)
        _sync(directory)
        settle(directory)


def is_settled(directory: Path) -> bool:
    """Whether no replacement of the keys was cut off, or is under way."""
    return not (directory / REPLACED).exists()


def settle(directory: Path) -> None:
    """Ends a replacement of the keys that was cut off; the lock must be held."""
    draft, folder, replaced = (directory / name for name in (DRAFT, KEYS, REPLACED))
    if not folder.exists():
        if not replaced.exists():
            return
        draft.rename(folder)
    shutil.rmtree(draft, ignore_errors=True)
    if replaced.exists():
        shutil.rmtree(replaced)
    _sync(directory)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
