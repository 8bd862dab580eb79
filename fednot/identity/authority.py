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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from fednot.errors import FednotError, Reason
from fednot.identity import certificates, keyring
from fednot.identity.folder import (
    Credentials,
    read_credentials,
    read_trust,
    write_credentials,
    write_private,
)
from fednot.identity.keyring import AuthorityError, Keyring, Signer
from fednot.identity.ledger import Issued, Ledger, State
from fednot.identity.subject import DEFAULT_DOMAIN, DOMAIN, Role, Subject

__all__ = ["Authority", "AuthorityError", "Issued", "Signed", "State"]

AUTHORITY_DAYS: Final = 3650.0
CERTIFICATE_DAYS: Final = 365.0
MAX_REQUEST_BYTES: Final = 16 << 10
SERVER: Final = "server"
_TRUST: Final = "trust.pem"
_REVOKED: Final = "revoked.pem"
_LEFT_OVERS: Final = {"lock", "ca.next", ".gitignore", "lost+found"}


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

    Each method that signs or changes raises AuthorityError if files cannot be read or written, or
    if another process has been changing the authority for too long (`keyring.LOCK_SECONDS`).
    """

    def __init__(self, directory: Path, domain: str) -> None:
        """Use `create` or `open`."""
        self.directory: Final = directory
        self.domain: Final = domain
        self._ledger: Final = Ledger(directory)

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        domain: str = DEFAULT_DOMAIN,
        hosts: Sequence[str] = (),
        days: float = AUTHORITY_DAYS,
    ) -> Self:
        """Makes an authority, and the server's certificate for `hosts` unless there are none.

        Raises AuthorityError if the directory is in use already, or a host is no host.
        """
        if not DOMAIN.fullmatch(domain):
            raise AuthorityError(
                f"{domain!r} is no trust domain; use 1 to 63 of a-z, 0-9, '-', '_' and '.'"
            )
        _checked_hosts(hosts)
        with _told(directory):
            _claim(directory)
            with keyring.locked(directory):
                _refuse_to_replace(directory)
                write_private(directory / ".gitignore", b"*\n", mode=0o644)
                Keyring(Signer.fresh(domain, days)).store(directory)
        made = cls.open(directory)
        with made._changing() as keys:
            made._publish(keys)
        if hosts:
            made.issue(Subject(Role.SERVER, SERVER, domain), made.server_folder, hosts=hosts)
        return made

    @classmethod
    def open(cls, directory: Path) -> Self:
        """An authority that is there. Raises AuthorityError if there is none that can be used."""
        with _told(directory):
            if not keyring.is_settled(directory):
                with keyring.locked(directory):
                    keyring.settle(directory)
            if not (directory / keyring.KEYS).is_dir():
                raise AuthorityError(
                    f"there is no authority in {directory}; make one by `fednot certs init`"
                )
            domain = Keyring.read(directory).domain
        if not domain:
            place = directory / keyring.KEYS / "cert.pem"
            raise AuthorityError(f"{place} names no trust domain; `fednot certs init` makes one")
        return cls(directory, domain)

    @property
    def trust_pem(self) -> bytes:
        """The trusted authorities as they stand now, newest first."""
        with _told(self.directory):
            return self._trust_file.read_bytes()

    @property
    def revocations(self) -> Path:
        """The file with the revocation lists."""
        return self.directory / _REVOKED

    @property
    def server_folder(self) -> Path:
        """Where the server's identity is."""
        return self.directory / SERVER

    def authorities(self) -> tuple[x509.Certificate, ...]:
        """The trusted authorities as they stand now, newest first."""
        with _told(self.directory):
            return read_trust(self._trust_file)

    def issue(
        self,
        subject: Subject,
        folder: Path,
        *,
        days: float | None = None,
        hosts: Sequence[str] = (),
    ) -> Credentials:
        """Makes a key and its certificate in an identity folder, in place of what is there.

        `hosts` are a server's DNS names and IP addresses; a server needs one.
        """
        with self._changing() as keys:
            self._issue(keys, subject, folder, days, hosts)
        return read_credentials(folder)

    def sign(
        self,
        request_pem: bytes,
        subject: Subject,
        *,
        days: float | None = None,
        hosts: Sequence[str] = (),
    ) -> Signed:
        """Signs a request of the one who has the key.

        Raises FednotError (INVALID_CERTIFICATE_REQUEST) for one that is bad or of another subject.
        """
        key = _requested_key(request_pem, subject)
        with self._changing() as keys:
            leaf = self._signed(keys, subject, key, days, hosts)
            return Signed(
                chain=keys.chain_pem(leaf),
                trust=keys.trust_pem,
                expires_at=leaf.not_valid_after_utc.timestamp(),
                serial=leaf.serial_number,
                key_digest=certificates.key_digest(key),
            )

    def issued(self) -> list[Issued]:
        """Every certificate that was signed, by subject, then oldest first."""
        with _told(self.directory):
            return self._ledger.read(self.authorities())

    def revoke(self, subject: Subject | None = None, *, serial: str = "") -> list[Issued]:
        """Revokes all certificates of a subject that are good, or the one whose serial number, in
        hexadecimal, begins so.

        Raises AuthorityError if there is none, or several begin so; it lists what there is.
        """
        with self._changing() as keys:
            found = self._ledger.read([each.certificate for each in keys.signers])
            chosen = _of_serial(found, serial) if serial else _of_subject(found, subject)
            at = certificates.now()
            for each in chosen:
                if each.revoked_at is None:
                    self._ledger.revoke(each.serial, at)
            self._write_revocations(keys)
            after = self._ledger.read([each.certificate for each in keys.signers])
        serials = {each.serial for each in chosen}
        return [each for each in after if each.serial in serials]

    def rotate(self, *, days: float = AUTHORITY_DAYS) -> None:
        """Makes a new authority, for which the present one vouches, and a new certificate for the
        server. Both are trusted until `retire`.
        """
        with self._changing() as keys:
            self._server_leaf()
            rotated = keys.rotated(days)
            rotated.store(self.directory)
            self._publish(rotated)

    def needed_older(self) -> list[Issued]:
        """What retiring would break: good certificates of older authorities whose subject has none
        of the newest.
        """
        at = certificates.now()
        found = [each for each in self.issued() if each.usable(at)]
        renewed = {each.subject for each in found if each.current}
        return [each for each in found if not each.current and each.subject not in renewed]

    def retire(self, *, force: bool = False) -> None:
        """Ends the trust in all authorities but the newest, and destroys their keys.

        Raises AuthorityError if there is none, or, unless `force`, while one is still needed.
        """
        with self._changing() as keys:
            if not keys.older:
                raise AuthorityError("there is no older authority to retire")
            needed = [] if force else self.needed_older()
            if needed:
                raise AuthorityError(
                    "certificates of an older authority are still in use: "
                    f"{_listed(needed)}; renew or revoke them first, or shut them out by --force"
                )
            keys.retired().store(self.directory)
            self._publish(keys.retired())

    @property
    def _trust_file(self) -> Path:
        return self.directory / _TRUST

    @contextmanager
    def _changing(self) -> Iterator[Keyring]:
        """Holds the lock; mends first what a crash cut off."""
        with _told(self.directory), keyring.locked(self.directory):
            keyring.settle(self.directory)
            keys = Keyring.read(self.directory)
            if not self._is_published(keys):
                self._publish(keys)
            yield keys

    def _is_published(self, keys: Keyring) -> bool:
        present = self._trust_file.exists() and self.revocations.exists()
        return present and self._trust_file.read_bytes() == keys.trust_pem

    def _publish(self, keys: Keyring) -> None:
        """Brings what others read up to the keys, the server's trust first: it must know an
        authority before it reads its revocation list. trust.pem tells that it was begun, and comes
        last.
        """
        server = self._server_leaf()
        if server is not None:
            self._renew_server(keys, server)
        self._write_revocations(keys)
        write_private(self._trust_file, keys.trust_pem, mode=0o644)

    def _write_revocations(self, keys: Keyring) -> None:
        lists = self._ledger.revocation_lists(keys.signers)
        write_private(self.revocations, lists, mode=0o644)

    def _server_leaf(self) -> x509.Certificate | None:
        path = self.server_folder / "cert.pem"
        return read_trust(path)[0] if path.exists() else None

    def _renew_server(self, keys: Keyring, present: x509.Certificate) -> None:
        if not certificates.issued_by(present, keys.current.certificate):
            subject, hosts = certificates.subject_of(present), certificates.hosts_of(present)
            self._issue(keys, subject, self.server_folder, None, hosts)
            return
        chain = keys.chain_pem(present)
        write_credentials(self.server_folder, chain=chain, trust=keys.trust_pem)

    def _issue(
        self,
        keys: Keyring,
        subject: Subject,
        folder: Path,
        days: float | None,
        hosts: Sequence[str],
    ) -> None:
        key = certificates.new_key()
        leaf = self._signed(keys, subject, key.public_key(), days, hosts)
        write_credentials(
            folder,
            chain=keys.chain_pem(leaf),
            trust=keys.trust_pem,
            key=certificates.key_pem(key),
        )

    def _signed(
        self,
        keys: Keyring,
        subject: Subject,
        public_key: object,
        days: float | None,
        hosts: Sequence[str],
    ) -> x509.Certificate:
        if subject.domain != self.domain:
            raise AuthorityError(
                f"{subject.uri} is of another trust domain; this authority signs for {self.domain}"
            )
        if subject.role is Role.SERVER and not hosts:
            raise AuthorityError(f"a certificate for {subject} needs a host name: --host NAME")
        if subject.role is not Role.SERVER and hosts:
            raise AuthorityError(f"only a server's certificate has host names, not {subject}'s")
        wanted = CERTIFICATE_DAYS if days is None else days
        if not wanted > 0:
            raise AuthorityError(f"a certificate for {wanted:g} days is none; ask for more")
        leaf = keys.signed(subject, public_key, wanted, _checked_hosts(hosts))
        self._ledger.record(leaf)
        return leaf


def _claim(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True)
    _refuse_to_replace(directory)
    directory.chmod(0o700)


def _refuse_to_replace(directory: Path) -> None:
    """Only what an `init` that was cut off has left may be there."""
    found = {path.name for path in directory.iterdir()}
    if keyring.KEYS in found or not keyring.is_settled(directory):
        raise AuthorityError(
            f"{directory} already holds an authority; `fednot certs list` shows it"
        )
    if found - _LEFT_OVERS:
        others = ", ".join(sorted(found - _LEFT_OVERS)[:5])
        raise AuthorityError(f"{directory} holds other things ({others}); name a new directory")


def _checked_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(certificates.checked_host(name) for name in hosts))
    except ValueError as error:
        raise AuthorityError(str(error)) from error


def _requested_key(request_pem: bytes, subject: Subject) -> object:
    if len(request_pem) > MAX_REQUEST_BYTES:
        raise _refused(f"it has {len(request_pem)} bytes; {MAX_REQUEST_BYTES} are the most")
    try:
        asked, key = certificates.read_request(request_pem)
    except ValueError as error:
        raise _refused(str(error)) from error
    if asked != subject:
        raise _refused(f"it asks for {asked.uri}, and was to be for {subject.uri}")
    return key


def _refused(why: str) -> FednotError:
    return FednotError(
        Reason.INVALID_CERTIFICATE_REQUEST, f"the certificate request is refused: {why}"
    )


def _of_serial(found: Sequence[Issued], beginning: str) -> list[Issued]:
    wanted = beginning.lower().removeprefix("0x").lstrip("0")
    chosen = [each for each in found if wanted and f"{each.serial:x}".startswith(wanted)]
    if len(chosen) == 1:
        return chosen
    if chosen:
        raise AuthorityError(f"several serial numbers begin with {beginning}: {_listed(chosen)}")
    raise AuthorityError(f"no certificate has the serial number {beginning}; {_there(found)}")


def _of_subject(found: Sequence[Issued], subject: Subject | None) -> list[Issued]:
    at = certificates.now()
    chosen = [each for each in found if each.subject == subject and each.usable(at)]
    if not chosen:
        own = [each for each in found if each.subject == subject]
        raise AuthorityError(f"{subject} has no certificate to revoke; {_there(own or found)}")
    return chosen


def _there(found: Sequence[Issued]) -> str:
    return f"there is {_listed(found)}" if found else "none was issued yet"


def _listed(found: Sequence[Issued], most: int = 20) -> str:
    at = certificates.now()
    rows = [
        f"{each.subject} ({each.state(at)}, until {each.ends:%Y-%m-%d}, serial {each.serial:x})"
        for each in found[:most]
    ]
    rest = len(found) - most
    return ", ".join(rows) + (f" and {rest} more" if rest > 0 else "")


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    """Turns faults of files into AuthorityError."""
    try:
        yield
    except OSError as error:
        place = error.filename or directory
        raise AuthorityError(f"{place} cannot be used: {error.strerror}") from error
    except FednotError as error:
        if error.reason is not Reason.INVALID_IDENTITY:
            raise
        raise AuthorityError(error.message) from error
