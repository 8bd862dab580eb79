"""The private authority that signs a federation's certificates: a directory with its keys.

    ca/           its certificate and key (cert.pem, key.pem), and older ones until they are retired
    trust.pem     the trusted authorities, newest first
    revoked.pem   the revocation lists, one for each trusted authority
    issued/       every certificate that was signed, and which of them are revoked
    server/       the server's identity

The command `fednot certs` and a server may use it at the same time: changes take a lock, and what
others read is replaced whole.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.identity.authority_files import SERVER, AuthorityFiles, checked_hosts
from fednot.identity.faults import AuthorityBusyError, AuthorityError, told
from fednot.identity.folder import (
    Credentials,
    read_credentials,
    read_trust,
    refuse_another,
    write_credentials,
)
from fednot.identity.ledger import Issued, State, listed, of_serial, of_subject
from fednot.identity.revocations import Revocation
from fednot.identity.signing_request import requested_key
from fednot.identity.subject import DEFAULT_DOMAIN, Role, Subject

__all__ = ["Authority", "AuthorityBusyError", "AuthorityError", "Issued", "Signed", "State"]

AUTHORITY_DAYS: Final = 3650.0


@dataclass(frozen=True)
class Signed:
    """A certificate that was signed, with what its holder needs: PEM.

    `expires_at` is in seconds since the epoch; `key_digest` is the sha256 of its public key.
    """

    chain: bytes
    trust: bytes
    expires_at: float
    serial: int
    key_digest: str


class Authority:
    """A directory that holds an authority.

    Each method raises AuthorityError if files cannot be read or written; those that sign or change
    block, and raise AuthorityBusyError if another process changes the authority for too long
    (`locking.LOCK_SECONDS`).
    """

    def __init__(self, files: AuthorityFiles, domain: str) -> None:
        """Use `create` or `open`."""
        self._files: Final = files
        self.directory: Final = files.directory
        self.domain: Final = domain

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        domain: str = DEFAULT_DOMAIN,
        hosts: Sequence[str] = (),
        days: float = AUTHORITY_DAYS,
    ) -> Self:
        """Makes an authority, and the server's identity for `hosts` unless there are none.

        Raises SubjectError for what is no trust domain, AuthorityError if a host is no host or the
        directory is in use already.
        """
        server = Subject(Role.SERVER, SERVER, domain)
        checked_hosts(hosts)
        files = AuthorityFiles(directory)
        with told(directory):
            files.found(domain, days)
        with files.changing() as keys:
            if hosts:
                files.issue(keys, server, files.server, None, hosts)
        return cls(files, domain)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """An authority that is there. Raises AuthorityError if there is none that can be used."""
        files = AuthorityFiles(directory)
        return cls(files, files.read_keys().domain)

    @property
    def trust_pem(self) -> bytes:
        """The trusted authorities as they stand now, newest first."""
        with told(self.directory):
            return self._files.trust.read_bytes()

    @property
    def revocations(self) -> Path:
        """The file with the revocation lists."""
        return self._files.revocations

    @property
    def server_folder(self) -> Path:
        """Where the server's identity is."""
        return self._files.server

    def authorities(self) -> tuple[x509.Certificate, ...]:
        """The trusted authorities as they stand now, newest first."""
        with told(self.directory):
            return read_trust(self._files.trust)

    def issue(
        self,
        subject: Subject,
        folder: Path,
        *,
        days: float | None = None,
        hosts: Sequence[str] = (),
    ) -> Credentials:
        """Makes a key and its certificate in a folder, in place of an older identity of the same
        subject.

        `hosts` are a server's DNS names and IP addresses; a server needs one. Raises AuthorityError
        if the folder holds another's identity, or a key whose request was not answered yet.
        """
        with self._files.changing() as keys:
            refuse_another(folder, subject)
            self._files.issue(keys, subject, folder, days, hosts)
            return read_credentials(folder)

    def sign(
        self,
        request_pem: bytes,
        subject: Subject,
        *,
        days: float | None = None,
        hosts: Sequence[str] = (),
        folder: Path | None = None,
        holder: int | None = None,
        granted_at: float | None = None,
    ) -> Signed:
        """Signs a request of the one who has the key; `hosts` as for `issue`.

        `holder` is the serial number of the certificate by which the request is made; `granted_at`,
        in seconds since the epoch, is when the subject was allowed to make it. With a folder,
        writes cert.pem and ca.pem there; raises AuthorityError if it holds another identity or key.
        Raises FednotError (INVALID_CERTIFICATE_REQUEST) for a request that is bad or of another
        subject, (CERTIFICATE_REVOKED) if a certificate of that key was revoked, or that of the
        holder, or one of the subject since it was allowed to ask.
        """
        key = requested_key(request_pem, subject)
        digest = certificates.key_digest(key)
        with self._files.changing() as keys:
            for each in self._files.ledger.revocations.read():
                _refuse_revoked(each, subject, digest, holder, granted_at)
            if folder is not None:
                refuse_another(folder, subject, digest)
            leaf = self._files.sign(keys, subject, key, days, hosts, folder)
            chain, trust = keys.chain_pem(leaf), keys.trust_pem
            if folder is not None:
                write_credentials(folder, chain=chain, trust=trust)
        ends = leaf.not_valid_after_utc.timestamp()
        return Signed(chain, trust, ends, leaf.serial_number, digest)

    def issued(self) -> list[Issued]:
        """Every certificate that was signed, by subject, then oldest first."""
        with told(self.directory):
            return self._files.ledger.read(self.authorities())

    def usable_certificate(self, subject: Subject) -> Issued | None:
        """The newest certificate of a subject that opens a door, if there is one."""
        at = certificates.now()
        with told(self.directory):
            found = self._files.ledger.read(self.authorities(), of=subject)
        return next((each for each in reversed(found) if each.usable(at)), None)

    def revoke(self, who: Subject | str) -> list[Issued]:
        """Revokes all usable certificates of a subject, or the one whose serial number, in
        hexadecimal, begins so; returns them.

        Raises AuthorityError if there is none, or several begin so.
        """
        with self._files.changing() as keys:
            ledger, at = self._files.ledger, dt.datetime.now(dt.UTC)
            try:
                found = self.issued()
                chosen = of_serial(found, who) if isinstance(who, str) else of_subject(found, who)
                revoked = ledger.revoke(chosen, at)
            finally:
                self._files.write_revocations(keys)
            ledger.prune(at)
            return revoked

    def rotate(self, *, days: float = AUTHORITY_DAYS) -> None:
        """Makes a new authority, for which the present one vouches, and a new key and certificate
        for the server. Both authorities are trusted until `retire`.
        """
        with self._files.changing() as keys:
            self._files.server_certificate()
            rotated = keys.rotated(days)
            rotated.store(self.directory)
            self._files.publish(rotated)

    def needed_older(self) -> list[Issued]:
        """What retiring would shut out: usable certificates of older authorities whose subject has
        none of the newest.
        """
        at = certificates.now()
        usable = [each for each in self.issued() if each.usable(at)]
        renewed = {each.subject for each in usable if each.current}
        return [each for each in usable if not each.current and each.subject not in renewed]

    def retire(self, *, force: bool = False) -> None:
        """Ends the trust in all authorities but the newest, and destroys their keys.

        Raises AuthorityError if there is none, or, unless `force`, while one is still needed.
        """
        with self._files.changing() as keys:
            if not keys.older:
                raise AuthorityError(f"there is no older authority to retire in {self.directory}")
            needed = [] if force else self.needed_older()
            if needed:
                raise AuthorityError(
                    f"certificates of an older authority are still in use: {listed(needed)}; "
                    "renew or revoke them first, or shut them out by --force"
                )
            retired = keys.retired()
            retired.store(self.directory)
            self._files.publish(retired)


def _refuse_revoked(
    revoked: Revocation,
    subject: Subject,
    digest: str,
    holder: int | None,
    granted_at: float | None,
) -> None:
    since = granted_at is not None and revoked.at.timestamp() >= granted_at
    if revoked.key_digest == digest:
        which = "of the key that asks for a new one"
    elif revoked.serial == holder:
        which = "by which the request is made"
    elif since and revoked.uri == subject.uri:
        which = "of the name that the request is for"
    else:
        return
    raise FednotError(
        Reason.CERTIFICATE_REVOKED,
        f"the certificate {which} was revoked: {revoked.uri}, serial number {revoked.serial:x}",
    )
