"""Sockets by hand: TLS with the certificate of anybody, and the data channel message by message."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path
from typing import Final, Self

from client.data_channel import refused
from fednot.data_messages import PREFIX_BYTES, response_in
from fednot.errors import FednotError
from fednot.rpc_errors import from_rpc_error
from fednot.v1 import data_channel_pb2

HOST: Final = "127.0.0.1"
PATIENCE: Final = 20.0
PART: Final = 1 << 16


def plain(port: int, seconds: float = PATIENCE) -> socket.socket:
    """A TCP connection; each wait takes at most so many seconds."""
    return socket.create_connection((HOST, port), timeout=seconds)


def context_of(identity: Path, *, show: bool = True, http2: bool = True) -> ssl.SSLContext:
    """Trusts the authority of an identity folder, and shows its certificate if asked to."""
    context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
    if show:
        context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
    if http2:
        context.set_alpn_protocols(["h2"])
    return context


def secured(port: int, context: ssl.SSLContext, seconds: float = PATIENCE) -> ssl.SSLSocket:
    """A connection after its handshake. Raises OSError."""
    connected = plain(port, seconds)
    try:
        return context.wrap_socket(connected, server_hostname=HOST)
    except OSError:
        connected.close()
        raise


def until_the_end(connected: socket.socket, seconds: float = PATIENCE) -> bytes:
    """All that the server sends before it closes. Raises TimeoutError if it does not in time."""
    found, until = b"", time.monotonic() + seconds
    while time.monotonic() < until:
        connected.settimeout(max(0.05, until - time.monotonic()))
        try:
            part = connected.recv(PART)
        except TimeoutError:
            break
        except OSError:
            return found
        if not part:
            return found
        found += part
    raise TimeoutError(f"the server has not closed the connection in {seconds:g} s")


class DataGuest:
    """A connection to the data channel."""

    def __init__(self, port: int, identity: Path) -> None:
        self.socket = secured(port, context_of(identity, http2=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, raw: bytes) -> None:
        self.socket.sendall(raw)

    def answer(self) -> data_channel_pb2.DataResponse:
        """The next message of the server."""
        size = int.from_bytes(self._read(PREFIX_BYTES))
        return response_in(self._read(size))

    def refusal(self) -> FednotError:
        """The refusal that is the next message."""
        answer = self.answer()
        assert answer.HasField("refusal"), answer
        error = from_rpc_error(refused(answer.refusal.status))
        assert error is not None
        return error

    def _read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = self.socket.recv(size - len(found))
            if not part:
                raise ConnectionError(f"the server hung up after {len(found)} of {size} bytes")
            found += part
        return found
