"""Finds out why a connection fails: which file, which name, which date.

gRPC says UNAVAILABLE for most of what can be wrong with TLS, and with TLS 1.3 a server that refuses
a client's certificate only closes the connection. So this looks again, with sockets of its own.
"""

from __future__ import annotations

import os
import ssl
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from fednot import address as addresses
from fednot.errors import FednotError, Reason
from fednot.identity import certificates, probing
from fednot.identity.folder import CERTIFICATE, KEY, TRUST, Credentials
from fednot.identity.lifetime import dated
from fednot.identity.probing import Deadline, Handshake, OwnFiles
from fednot.identity.subject import Role, SubjectError
from fednot.identity.trust import check_dates, described

DEFAULT_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 0.3
_OF_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OF_STRANGERS: Final = stat.S_IWGRP | stat.S_IRWXO
"""Where root owns the key, as in a mounted secret, this user reads it by its group."""

# X509_V_ERR_* of OpenSSL's x509_vfy.h
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_WRONG_PURPOSE: Final = 26
_NAME_MISMATCHES: Final = {62, 64}
_UNTRUSTED: Final = {2, 7, 18, 19, 20, 21, 22, 24, 79}


def diagnose(
    address: str, credentials: Credentials | None, *, timeout: float = DEFAULT_SECONDS
) -> FednotError | None:
    """Why a server cannot be talked to: over TLS with credentials, over plaintext without.

    None if nothing is wrong that can be seen here, as when nothing listens at all; a server that
    is connected and not heard to the end is TLS_FAILED. It blocks, for `timeout` seconds at the
    most.
    """
    deadline = Deadline(timeout)
    try:
        if credentials is None:
            return _of_plaintext(address, deadline)
        check_dates_of(credentials)
        return _Look(address, _own_side(credentials), deadline).finding()
    except FednotError as error:
        return error
    except (OSError, ValueError):
        return None


def diagnose_enrolment(
    address: str, trust: bytes, *, source: str, timeout: float = DEFAULT_SECONDS
) -> FednotError | None:
    """As `diagnose`, for a machine without a certificate that trusts the PEM `trust` of `source`.

    `source` names where that came from, for sentences.
    """
    try:
        authorities = certificates.read_certificates(trust)
        side = _Side(trust, authorities, source, None, None)
        return _Look(address, side, Deadline(timeout)).finding()
    except (OSError, ValueError):
        return None


def check_dates_of(credentials: Credentials) -> None:
    """Raises FednotError (CERTIFICATE_EXPIRED, CERTIFICATE_NOT_YET_VALID) with file and date."""
    place = file_of(credentials.folder, CERTIFICATE)
    check_dates(credentials.certificate, certificates.now(), str(place))


def exposed_key(folder: Path) -> str:
    """Says that others than its owner can get at an identity's key; "" if they cannot."""
    place = file_of(folder, KEY)
    found = place.stat()
    mode = stat.S_IMODE(found.st_mode)
    if not mode & (_OF_OTHERS if found.st_uid == os.getuid() else _OF_STRANGERS):
        return ""
    return f"others than its owner can read or write {place} (mode {mode:04o})"


def file_of(folder: Path, names: Sequence[str]) -> Path:
    """The file of an identity that is there under one of its names; the first name if none is."""
    return next((folder / name for name in names if (folder / name).exists()), folder / names[0])


@dataclass(frozen=True)
class _Side:
    """What this side brings: what it trusts, from which file, and the certificate it shows."""

    trust: bytes
    authorities: tuple[x509.Certificate, ...]
    trust_file: str
    certificate: x509.Certificate | None
    files: OwnFiles | None


def _own_side(credentials: Credentials) -> _Side:
    folder = credentials.folder
    return _Side(
        credentials.trust,
        certificates.read_certificates(credentials.trust),
        str(file_of(folder, TRUST)),
        credentials.certificate,
        OwnFiles(file_of(folder, CERTIFICATE), file_of(folder, KEY)),
    )


def _of_plaintext(address: str, deadline: Deadline) -> FednotError | None:
    probing.connect(address, deadline).close()
    if probing.speaks_plaintext(address, deadline):
        return None
    if probing.certificate_at(address, deadline) is None:
        return None
    return FednotError(
        Reason.SERVER_SPEAKS_TLS,
        f"the server at {address} speaks TLS, and it was dialled in plaintext (--insecure)",
    )


class _Look:
    """One look at a server over TLS."""

    def __init__(self, address: str, side: _Side, deadline: Deadline) -> None:
        self._address = address
        self._side = side
        self._deadline = deadline

    def finding(self) -> FednotError | None:
        """What is wrong, or None. Raises OSError if there is no TCP connection."""
        seen = self._shake_hands()
        if isinstance(seen.fault, ssl.SSLCertVerificationError):
            return self._of_server(seen.fault)
        within = f"within {self._deadline.seconds:g} s"
        if isinstance(seen.fault, TimeoutError):
            return self._failed(f"it did not answer the TLS handshake {within}")
        if seen.fault is not None:
            return self._of_broken_handshake(seen.fault)
        if not _is_server(seen.certificate):
            return self._untrusted(seen.certificate, "it is not a server's")
        if seen.answer == b"" and self._closes_again():
            return self._of_own_certificate()
        if not seen.speaks_http2:
            return self._failed("it speaks TLS, but no HTTP/2 and so no gRPC")
        if seen.answer is None:
            return self._failed(f"it said nothing after the TLS handshake {within}")
        return None

    def _shake_hands(self) -> Handshake:
        side = self._side
        return probing.shake_hands(self._address, side.trust, side.files, self._deadline)

    def _closes_again(self) -> bool:
        """A server that is just stopping closes connections too, and then no longer listens.

        If no time is left to look again, what was seen before counts.
        """
        try:
            time.sleep(min(_AGAIN_SECONDS, self._deadline.left() / 2))
            seen = self._shake_hands()
        except TimeoutError:
            return True
        return seen.answer == b"" or isinstance(seen.fault, TimeoutError)

    def _of_server(self, fault: ssl.SSLCertVerificationError) -> FednotError:
        found = probing.certificate_at(self._address, self._deadline)
        code = fault.verify_code
        if found is None or code == _WRONG_PURPOSE:
            why = "it is not a server's" if code == _WRONG_PURPOSE else fault.verify_message
            return self._untrusted(found, why)
        if code in (_EXPIRED, _NOT_YET_VALID):
            return self._of_dates(found)
        if code in _NAME_MISMATCHES:
            return self._of_name(found)
        if code in _UNTRUSTED:
            return self._of_issuer(found)
        return self._untrusted(found, fault.verify_message)

    def _of_dates(self, found: x509.Certificate) -> FednotError:
        begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
        now = certificates.now()
        if now > ends:
            reason, what = Reason.SERVER_CERTIFICATE_EXPIRED, f"expired on {dated(ends)}"
        elif now < begins:
            reason = Reason.SERVER_CERTIFICATE_NOT_YET_VALID
            what = f"is valid only from {dated(begins)} on"
        else:
            return self._untrusted(found, f"an authority of its chain has ended: {self._trusted()}")
        return FednotError(
            reason,
            f"the certificate of the server at {self._address} ({described(found)}) {what}, "
            f"and the clock here says {dated(now)}",
        )

    def _of_name(self, found: x509.Certificate) -> FednotError:
        host, _ = addresses.split(self._address)
        names = ", ".join(certificates.hosts_of(found)) or "no name at all"
        return FednotError(
            Reason.SERVER_NAME_MISMATCH,
            f"the certificate of the server at {self._address} is for {names}, not for {host}",
        )

    def _of_issuer(self, found: x509.Certificate) -> FednotError:
        who = f"{found.issuer.rfc4514_string()} (key {_issuer_key(found)})"
        if any(authority.subject == found.issuer for authority in self._side.authorities):
            who = f"another authority of the same name, {who},"
        return self._untrusted(found, f"{who} issued it, and {self._trusted()}")

    def _trusted(self) -> str:
        shown = ", ".join(
            f"{found.subject.rfc4514_string()} (key {_own_key(found)}, until "
            f"{found.not_valid_after_utc:%Y-%m-%d})"
            for found in self._side.authorities
        )
        return f"{self._side.trust_file} trusts {shown}"

    def _untrusted(self, found: x509.Certificate | None, why: str) -> FednotError:
        whose = f" ({described(found)})" if found is not None else ""
        return FednotError(
            Reason.SERVER_UNTRUSTED,
            f"the certificate that {self._address} shows{whose} is not to be trusted: {why}",
        )

    def _of_broken_handshake(self, fault: OSError) -> FednotError | None:
        reason = getattr(fault, "reason", None) or ""
        if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
            return self._of_own_certificate()
        if probing.speaks_plaintext(self._address, self._deadline):
            return FednotError(
                Reason.SERVER_SPEAKS_PLAINTEXT,
                f"the server at {self._address} speaks plaintext, and it was dialled over TLS",
            )
        if isinstance(fault, ssl.SSLError) and not isinstance(fault, ssl.SSLEOFError):
            return self._failed(f"what answers speaks no TLS that is known here: {fault.reason}")
        return self._failed("it closed the connection in the middle of the TLS handshake")

    def _failed(self, why: str) -> FednotError:
        return FednotError(Reason.TLS_FAILED, f"no TLS connection to {self._address}: {why}")

    def _of_own_certificate(self) -> FednotError:
        own, files = self._side.certificate, self._side.files
        if own is None or files is None:
            return FednotError(
                Reason.NO_CERTIFICATE,
                f"the server at {self._address} demands a certificate, and none was shown; "
                "if this is to enrol, dial the enrolment address (usually port 50052)",
            )
        return FednotError(
            Reason.UNTRUSTED_CERTIFICATE,
            f"the server at {self._address} closes the connection when it is shown the certificate "
            f"of {described(own)} in {files.certificate}: it does not trust the issuer "
            f"{own.issuer.rfc4514_string()} (key {_issuer_key(own)}), or by its clock the "
            f"certificate is not valid ({dated(own.not_valid_before_utc)} to "
            f"{dated(own.not_valid_after_utc)})",
        )


def _is_server(found: x509.Certificate | None) -> bool:
    try:
        return found is not None and certificates.subject_of(found).role is Role.SERVER
    except SubjectError:
        return False


def _issuer_key(found: x509.Certificate) -> str:
    try:
        extension = found.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return "unknown"
    return _short(extension.value.key_identifier)


def _own_key(found: x509.Certificate) -> str:
    try:
        extension = found.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return "unknown"
    return _short(extension.value.key_identifier)


def _short(identifier: bytes | None) -> str:
    return identifier.hex()[:12] if identifier else "unknown"
