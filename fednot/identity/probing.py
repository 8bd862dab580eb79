"""Looks at what answers at an address, with sockets of its own, and never longer than allowed."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from fednot import address as addresses
from fednot.identity import certificates

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_HEADER: Final = 9
_SETTINGS: Final = 4


class Deadline:
    """A moment by which a look must have ended."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """The seconds that are left. Raises TimeoutError if none are."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("no time is left")
        return left


@dataclass(frozen=True)
class Handshake:
    """What a TLS handshake showed.

    `fault` is what ended it, None if it succeeded. `answer` is what the server sent after it: b""
    if it closed the connection, None if it stayed silent. `certificate` is the server's, if seen.
    """

    fault: OSError | None = None
    certificate: x509.Certificate | None = None
    answer: bytes | None = None
    speaks_http2: bool = True


@dataclass(frozen=True)
class OwnFiles:
    """Where a certificate chain and its key are, to be shown to the server."""

    certificate: Path
    key: Path


def resolve(address: str, deadline: Deadline) -> list[tuple[Any, ...]]:
    """What a host name stands for, as getaddrinfo gives it.

    Raises OSError if it stands for nothing, TimeoutError, and ValueError for no address.
    """
    host, port = addresses.split(address)
    found: list[list[tuple[Any, ...]] | OSError] = []

    def look() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.append(error)
        except UnicodeError as error:  # a label that is too long
            found.append(OSError(f"{host!r} is no host name: {error}"))

    thread = threading.Thread(target=look, name="fednot-resolve", daemon=True)
    thread.start()
    thread.join(deadline.left())
    if not found:
        raise TimeoutError(f"the name {host} was not resolved in time")
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def connect(address: str, deadline: Deadline) -> socket.socket:
    """A TCP connection. Raises OSError, TimeoutError among them, and ValueError for no address."""
    rows = resolve(address, deadline)
    last: OSError = OSError(f"{address} stands for no address")
    for left, (family, kind, protocol, _, place) in zip(range(len(rows), 0, -1), rows, strict=True):
        link = socket.socket(family, kind, protocol)
        try:
            link.settimeout(deadline.left() / left)
            link.connect(place)
        except OSError as error:
            link.close()
            last = error
        else:
            return link
    raise last


def speaks_plaintext(address: str, deadline: Deadline) -> bool:
    """Whether HTTP/2 without TLS answers, as a gRPC server in plaintext does."""
    try:
        with connect(address, deadline) as link:
            link.settimeout(deadline.left())
            link.sendall(_PREFACE)
            head = _read(link, _FRAME_HEADER, deadline)
    except OSError:
        return False
    return len(head) == _FRAME_HEADER and head[3] == _SETTINGS


def certificate_at(address: str, deadline: Deadline) -> x509.Certificate | None:
    """The certificate that a server shows, whoever it is; None if it shows none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with _secured(address, context, deadline) as link:
            return _leaf(link)
    except OSError:
        return None


def shake_hands(address: str, trust: bytes, own: OwnFiles | None, deadline: Deadline) -> Handshake:
    """Dials as the gRPC channel does: checks the server against `trust` (PEM), shows `own`.

    Raises OSError if there is no TCP connection, ssl.SSLError if `own` or `trust` cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusted = certificates.pem_of(certificates.read_certificates(trust))
    context.load_verify_locations(cadata=trusted.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    with connect(address, deadline) as link:
        host, _ = addresses.split(address)
        try:
            link.settimeout(deadline.left())
            with context.wrap_socket(link, server_hostname=host) as secured:
                return Handshake(
                    certificate=_leaf(secured),
                    answer=_first_answer(secured, deadline),
                    speaks_http2=secured.selected_alpn_protocol() == "h2",
                )
        except OSError as error:
            return Handshake(fault=error)


def _first_answer(link: ssl.SSLSocket, deadline: Deadline) -> bytes | None:
    """What the server says first. A refused certificate shows only here, as a closed connection."""
    try:
        link.settimeout(deadline.left())
        with contextlib.suppress(BrokenPipeError):
            link.sendall(_PREFACE)
        link.settimeout(deadline.left())
        return link.recv(_FRAME_HEADER)
    except TimeoutError:
        return None
    except OSError:
        return b""


@contextmanager
def _secured(address: str, context: ssl.SSLContext, deadline: Deadline) -> Iterator[ssl.SSLSocket]:
    with connect(address, deadline) as link:
        link.settimeout(deadline.left())
        with context.wrap_socket(link) as secured:
            yield secured


def _leaf(link: ssl.SSLSocket) -> x509.Certificate | None:
    found = link.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(found) if found else None


def _read(link: socket.socket, size: int, deadline: Deadline) -> bytes:
    found = b""
    while len(found) < size:
        link.settimeout(deadline.left())
        more = link.recv(size - len(found))
        if not more:
            break
        found += more
    return found
