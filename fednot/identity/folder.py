"""An identity on disk: a folder with a certificate, its key, and what it trusts."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509

from fednot.errors import REMEDY_KEY, FednotError, Reason
from fednot.identity import certificates
from fednot.identity.subject import Subject, SubjectError

CERTIFICATE: Final = ("cert.pem", "tls.crt")
KEY: Final = ("key.pem", "tls.key")
TRUST: Final = ("ca.pem", "ca.crt")
"""The second name of each is that of a Kubernetes TLS secret."""
REQUEST: Final = "request.pem"
DRAFT_SUFFIX: Final = ".draft"

_MARKS: Final = {"a certificate": b" CERTIFICATE-----", "a private key": b"PRIVATE KEY-----"}

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Credentials:
    """A certificate chain (leaf first), its private key and the trusted authorities, all PEM."""

    folder: Path
    subject: Subject
    certificate: x509.Certificate
    chain: bytes
    private_key: bytes = field(repr=False)
    trust: bytes


def read_credentials(folder: Path) -> Credentials:
    """Reads the identity in a folder, without asking whether it is still valid.

    Raises FednotError (INVALID_IDENTITY) that names the file and what is wrong with it.
    """
    certificate_file, key_file, trust_file = (
        _present(folder, names) for names in (CERTIFICATE, KEY, TRUST)
    )
    chain, key, trust = (_bytes(path) for path in (certificate_file, key_file, trust_file))
    leaf = _certificates(certificate_file, chain)[0]
    _certificates(trust_file, trust)
    if _key_digest(key_file, key) != certificates.key_digest(leaf.public_key()):
        raise _invalid(
            f"{key_file} is not the key of {certificate_file}; take the pair that belongs together"
        )
    try:
        subject = certificates.subject_of(leaf)
    except SubjectError as error:
        raise _invalid(f"{certificate_file} is no certificate of fednot: {error}") from error
    return Credentials(folder, subject, leaf, chain, key, trust)


def read_trust(path: Path) -> tuple[x509.Certificate, ...]:
    """The authorities in a PEM file. Raises FednotError (INVALID_IDENTITY)."""
    return _certificates(path, _bytes(path))


def write_credentials(
    folder: Path, *, chain: bytes, trust: bytes, key: bytes | None = None
) -> None:
    """Writes an identity so that a reader finds the old files or the new ones, each whole.

    A reader that comes in between may find a key that does not fit, and reads again later.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if key is not None:
        write_private(_target(folder, KEY), key)
    write_private(_target(folder, TRUST), trust, mode=0o644)
    write_private(_target(folder, CERTIFICATE), chain, mode=0o644)


def make_writable(folder: Path) -> None:
    """Makes a folder for an identity unless it is there, and proves that files can be written to
    it. Raises OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    proof = folder / f".{secrets.token_hex(4)}{DRAFT_SUFFIX}"
    write_private(proof, b"")
    proof.unlink()


def write_request(folder: Path, subject: Subject) -> str:
    """Makes a key and a request for its certificate in a folder; gives the key's sha256.

    Raises FednotError (INVALID_IDENTITY) if the folder has a key already.
    """
    for path in (folder / name for name in KEY):
        if path.exists():
            raise _invalid(
                f"{path} exists and is not replaced",
                "Name another folder, or delete the key if nothing uses it.",
            )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = certificates.new_key()
    asked = certificates.request_pem(certificates.request(subject, key))
    write_private(folder / REQUEST, asked, mode=0o644)
    write_private(folder / KEY[0], certificates.key_pem(key))
    return certificates.key_digest(key.public_key())


def refuse_another(folder: Path, subject: Subject, digest: str = "") -> None:
    """Refuses a folder in which a certificate of a subject would not fit.

    `digest` is the sha256 of the certificate's key; "" if a new key is to be made. Raises
    FednotError (INVALID_IDENTITY) if the folder holds the identity of another subject, another key,
    or a key that waits for its certificate.
    """
    certificate_file = _target(folder, CERTIFICATE)
    if certificate_file.exists():
        try:
            held = certificates.subject_of(read_trust(certificate_file)[0])
        except SubjectError as error:
            raise _invalid(f"{certificate_file} is no certificate of fednot: {error}") from error
        if held != subject:
            raise _invalid(f"{folder} holds the identity of {held}; name another folder")
    elif not digest and (folder / REQUEST).exists():
        raise _invalid(
            f"{folder / REQUEST} waits to be signed (`fednot certs sign`); name another folder, or "
            "delete it"
        )
    key_file = _target(folder, KEY)
    if digest and key_file.exists() and _key_digest(key_file) != digest:
        raise _invalid(f"{key_file} is not the key of the request; name another folder")


def write_private(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Writes a file durably and in one step; only its owner reads it unless `mode` says more."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{DRAFT_SUFFIX}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class WatchedFolder:
    """An identity folder whose files may be replaced while it is in use."""

    def __init__(self, folder: Path) -> None:
        """Reads it. Raises FednotError (INVALID_IDENTITY)."""
        self.folder = folder
        self._seen = signature_of(folder)
        self.current = read_credentials(folder)

    def changed(self) -> bool:
        """Reads the files again if they were replaced; True if they hold another identity now.

        Raises FednotError (INVALID_IDENTITY) once for each state of the files that cannot be used;
        `current` then stays what it was.
        """
        seen = signature_of(self.folder)
        if seen == self._seen:
            return False
        self._seen = seen
        before, self.current = self.current, read_credentials(self.folder)
        return before != self.current


def signature_of(folder: Path) -> Signature:
    """What tells whether the files of an identity were replaced."""
    rows = []
    for names in (CERTIFICATE, KEY, TRUST):
        for name in names:
            with contextlib.suppress(OSError):
                found = (folder / name).stat()
                rows.append((name, found.st_ino, found.st_mtime_ns, found.st_size))
    return tuple(rows)


def _present(folder: Path, names: tuple[str, str]) -> Path:
    for name in names:
        if (folder / name).exists():
            return folder / name
    if folder.is_file():
        raise _invalid(f"{folder} is a file", f"Give the folder that it is in: {folder.parent}")
    where = folder if folder.is_dir() else f"{folder}, which is not a folder"
    raise _invalid(f"there is no {names[0]} in {where}")


def _target(folder: Path, names: tuple[str, str]) -> Path:
    return folder / next((name for name in names if (folder / name).exists()), names[0])


def _key_digest(path: Path, pem: bytes | None = None) -> str:
    pem = _bytes(path) if pem is None else pem
    try:
        key = certificates.read_key(pem)
    except ValueError as error:
        raise _invalid(_unusable(path, pem, "a private key", "a certificate", error)) from error
    return certificates.key_digest(key.public_key())


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _invalid(
            f"{path} cannot be read: {error.strerror}",
            "Run this as the owner of that file, or let this user read it.",
        ) from error


def _certificates(path: Path, pem: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return certificates.read_certificates(pem)
    except ValueError as error:
        raise _invalid(_unusable(path, pem, "a certificate", "a private key", error)) from error


def _unusable(path: Path, pem: bytes, wanted: str, other: str, error: ValueError) -> str:
    if not pem.strip():
        return f"{path} is empty; it has to hold {wanted} in PEM form"
    if _MARKS[other] in pem and _MARKS[wanted] not in pem:
        return f"{path} holds {other}, and has to hold {wanted}; are the two files swapped?"
    said = "" if "cryptography.io" in str(error) else f": {error}"
    return f"{path} holds no {wanted.removeprefix('a ')} in PEM form that can be used{said}"


def _invalid(message: str, remedy: str = "") -> FednotError:
    metadata = {REMEDY_KEY: remedy} if remedy else {}
    return FednotError(Reason.INVALID_IDENTITY, message, metadata=metadata)
