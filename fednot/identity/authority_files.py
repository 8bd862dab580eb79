"""The files of an authority's directory, kept in step with its keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography import x509

from fednot.errors import FednotError
from fednot.identity import certificates, keyring
from fednot.identity.faults import AuthorityError, told
from fednot.identity.folder import (
    DRAFT_SUFFIX,
    make_writable,
    read_trust,
    write_credentials,
    write_private,
)
from fednot.identity.keyring import Keyring, Signer
from fednot.identity.ledger import ISSUED, Ledger
from fednot.identity.locking import LOCK_FILE, locked
from fednot.identity.replacement import REPLACEMENT, finish_replacement, replace
from fednot.identity.subject import Role, Subject, SubjectError
from fednot.identity.trust import Trust

CERTIFICATE_DAYS: Final = 365.0
SERVER: Final = "server"
TRUST: Final = "trust.pem"
REVOKED: Final = "revoked.pem"
_IGNORED: Final = ".gitignore"
_LEFT_OVERS: Final = {LOCK_FILE, keyring.DRAFT, _IGNORED, "lost+found"}


class AuthorityFiles:
    """Reads and writes them. What changes them takes the keys that `changing` yields."""

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        self.ledger: Final = Ledger(directory)
        self.trust: Final = directory / TRUST
        self.revocations: Final = directory / REVOKED
        self.server: Final = directory / SERVER

    def found(self, domain: str, days: float) -> None:
        """Makes a new authority's keys in a directory of its own.

        Raises AuthorityError if the directory holds an authority or other things.
        """
        if not self.directory.is_dir():
            self.directory.mkdir(mode=0o700, parents=True)
        self._refuse_to_replace()
        self.directory.chmod(0o700)
        with locked(self.directory):
            self._refuse_to_replace()
            write_private(self.directory / _IGNORED, b"*\n", mode=0o644)
            Keyring(Signer.fresh(domain, days)).store(self.directory)

    def read_keys(self) -> Keyring:
        """The keys; mends first what a crash cut off.

        Raises AuthorityError if there are none, or none that can be used.
        """
        with told(self.directory):
            if keyring.is_settled(self.directory):
                if not (self.directory / keyring.KEYS).is_dir():
                    raise AuthorityError(
                        f"there is no authority in {self.directory}; `fednot certs init` makes one"
                    )
                keys = Keyring.read(self.directory)
                if self._is_published(keys):
                    return keys
        with self.changing() as keys:
            return keys

    @contextmanager
    def changing(self) -> Iterator[Keyring]:
        """Holds the lock, and first mends what a crash cut off. Raises AuthorityError."""
        with told(self.directory), locked(self.directory):
            keyring.settle(self.directory)
            keys = Keyring.read(self.directory)
            finish_replacement(self.server)
            if not self._is_published(keys):
                self.publish(keys)
            yield keys

    def publish(self, keys: Keyring) -> None:
        """Brings what others read up to the keys.

        There is a revocation list of each authority that the server trusts at every moment: a new
        one is written before the server's trust, an old one goes after it. trust.pem comes last: it
        tells that all of it is done.
        """
        present = self.server_certificate()
        grows = self._published() <= {signer.certificate for signer in keys.signers}
        if grows:
            self.write_revocations(keys)
        if present is not None:
            self._refresh_server(keys, present)
        if not grows:
            self.write_revocations(keys)
        write_private(self.trust, keys.trust_pem, mode=0o644)

    def write_revocations(self, keys: Keyring) -> None:
        """Writes the revocation lists anew, whole."""
        lists = self.ledger.revocations.lists(keys.signers)
        write_private(self.revocations, lists, mode=0o644)

    def server_certificate(self) -> x509.Certificate | None:
        """The server's certificate, if it is kept here.

        Raises AuthorityError or FednotError (INVALID_IDENTITY) if it could not be issued again.
        """
        path = self.server / "cert.pem"
        if not path.exists():
            return None
        found = read_trust(path)[0]
        try:
            if certificates.subject_of(found).role is Role.SERVER and certificates.hosts_of(found):
                return found
        except SubjectError as error:
            raise AuthorityError(f"{path} is no certificate of fednot: {error}") from error
        raise AuthorityError(f"{path} is not a server's certificate; move {self.server} away")

    def sign(
        self,
        keys: Keyring,
        subject: Subject,
        public_key: object,
        days: float | None,
        hosts: Sequence[str],
        folder: Path | None,
    ) -> x509.Certificate:
        """Signs a certificate and records it; once a day, old records go.

        Before that, makes the folder in which it is to be written, if there is one. Raises
        AuthorityError, or OSError if that folder cannot be written to.
        """
        if subject.domain != keys.domain:
            raise AuthorityError(
                f"{subject.uri} is of another trust domain; this authority signs for {keys.domain}"
            )
        if subject.role is Role.SERVER and not hosts:
            raise AuthorityError(f"a certificate for {subject} needs a host name: --host NAME")
        if subject.role is not Role.SERVER and hosts:
            raise AuthorityError(f"only a server's certificate has host names, not {subject}'s")
        wanted = CERTIFICATE_DAYS if days is None else days
        if not wanted > 0:
            raise AuthorityError(f"a certificate for {wanted:g} days is none; ask for more")
        names = checked_hosts(hosts)
        keys.check_lasts()
        if folder is not None:
            make_writable(folder)
        leaf = keys.signed(subject, public_key, wanted, names)
        self.ledger.record(leaf)
        self.ledger.prune(certificates.now())
        return leaf

    def issue(
        self,
        keys: Keyring,
        subject: Subject,
        folder: Path,
        days: float | None,
        hosts: Sequence[str],
    ) -> None:
        """Makes a key, signs its certificate and writes both to a folder. Raises AuthorityError."""
        write = replace if folder.is_dir() else write_credentials
        key = certificates.new_key()
        leaf = self.sign(keys, subject, key.public_key(), days, hosts, folder)
        chain, trust, secret = keys.chain_pem(leaf), keys.trust_pem, certificates.key_pem(key)
        write(folder, chain=chain, trust=trust, key=secret)

    def _published(self) -> set[x509.Certificate]:
        """The authorities in trust.pem; none if it has to be mended."""
        try:
            return set(read_trust(self.trust))
        except FednotError:
            return set()

    def _is_published(self, keys: Keyring) -> bool:
        present = self.trust.exists() and self.revocations.exists()
        cut_off = (self.server / REPLACEMENT).exists()
        whole = present and not cut_off and self.trust.read_bytes() == keys.trust_pem
        return whole and self._lists_hold_all(keys)

    def _lists_hold_all(self, keys: Keyring) -> bool:
        """Whether what was recorded as revoked is in the revocation lists; they may hold more, as
        what ended long ago is dropped from the record first.
        """
        try:
            lists = Trust.of_pem(keys.trust_pem, self.revocations.read_bytes())
        except ValueError:
            return False
        return self.ledger.revocations.serials(keys.signers) <= lists.revoked

    def _refresh_server(self, keys: Keyring, present: x509.Certificate) -> None:
        if certificates.issued_by(present, keys.current.certificate):
            chain = keys.chain_pem(present)
            write_credentials(self.server, chain=chain, trust=keys.trust_pem)
        else:
            subject, hosts = certificates.subject_of(present), certificates.hosts_of(present)
            self.issue(keys, subject, self.server, None, hosts)

    def _refuse_to_replace(self) -> None:
        """Only what an `init` that was cut off has left may be there."""
        found = {path.name for path in self.directory.iterdir()}
        if found & {keyring.KEYS, keyring.REPLACED, ISSUED}:
            raise AuthorityError(
                f"{self.directory} already holds an authority; `fednot certs list` shows it"
            )
        known = _LEFT_OVERS | {name for name in found if name.endswith(DRAFT_SUFFIX)}
        others = sorted(found - known)
        if others:
            named = ", ".join(others[:5])
            raise AuthorityError(
                f"{self.directory} holds other things ({named}); name a new directory"
            )


def checked_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """DNS names and IP addresses, each once. Raises AuthorityError for one that is neither."""
    try:
        return tuple(dict.fromkeys(certificates.checked_host(name) for name in hosts))
    except ValueError as error:
        raise AuthorityError(str(error)) from error
