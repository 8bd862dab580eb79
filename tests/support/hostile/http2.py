"""HTTP/2 by hand (RFC 9113), so that it can be spoken wrong and without end.

Only what an attack needs: frames out, and of what comes back the kinds and the error codes. Headers
are literals without an index (RFC 7541, 6.2.2), which take no state on either side.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS, ACK = 1, 4, 1
REFUSED_STREAM, ENHANCE_YOUR_CALM = 7, 11
CANCEL: Final = 8
_HEAD: Final = 9


class Kind(IntEnum):
    """The frames that are sent or told apart here."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


def frame(kind: Kind, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """One header field."""
    parts = (part.encode() for part in (name, value))
    return b"\0" + b"".join(_length(len(part)) + part for part in parts)


def _length(size: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if size < 127:
        return bytes([size])
    size -= 127
    found = bytearray([127])
    while size >= 128:
        found.append(size & 127 | 128)
        size >>= 7
    return bytes([*found, size])


def request_headers(path: str, authority: str) -> bytes:
    """The header block of a gRPC call."""
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": path,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(literal(name, value) for name, value in fields.items())


def begin_call(stream: int, path: str, authority: str) -> bytes:
    """The frame that opens a call."""
    block = request_headers(path, authority)
    return frame(Kind.HEADERS, block, flags=END_HEADERS, stream=stream)


def message(stream: int, raw: bytes = b"", *, last: bool = True) -> bytes:
    """A message of a call, not compressed."""
    flags = END_STREAM if last else 0
    return frame(Kind.DATA, b"\0" + struct.pack(">I", len(raw)) + raw, flags=flags, stream=stream)


def reset(stream: int) -> bytes:
    """Takes a call back."""
    return frame(Kind.RST_STREAM, struct.pack(">I", CANCEL), stream=stream)


@dataclass
class Heard:
    """What a server sent: frames by kind, and the codes of those that end something."""

    frames: Counter[int] = field(default_factory=Counter)
    goaway: int | None = None
    why: str = ""
    resets: Counter[int] = field(default_factory=Counter)
    closed: bool = False
    _rest: bytes = b""

    def take(self, part: bytes) -> None:
        """Reads the next bytes."""
        self._rest += part
        while len(self._rest) >= _HEAD:
            size = int.from_bytes(self._rest[:3])
            if len(self._rest) < _HEAD + size:
                return
            kind, payload = self._rest[3], self._rest[_HEAD : _HEAD + size]
            self._rest = self._rest[_HEAD + size :]
            self.frames[kind] += 1
            if kind == Kind.GOAWAY:
                self.goaway = int.from_bytes(payload[4:8])
                self.why = payload[8:].decode("ascii", "replace")
            if kind == Kind.RST_STREAM:
                self.resets[int.from_bytes(payload)] += 1


class Http2:
    """A connection that has been secured, after the preface of a client."""

    def __init__(self, connected: ssl.SSLSocket, settings: bytes = b"") -> None:
        self.heard = Heard()
        self._socket = connected
        connected.sendall(PREFACE + frame(Kind.SETTINGS, settings))

    def send(self, raw: bytes) -> bool:
        """Sends what the server still takes; False once it has hung up."""
        try:
            self._socket.sendall(raw)
        except OSError:
            self.heard.closed = True
        return not self.heard.closed

    def acknowledge(self) -> None:
        """Agrees to the server's settings, after which gRPC keeps to its limits of metadata."""
        self.send(frame(Kind.SETTINGS, flags=ACK))

    def listen(self, seconds: float = 0.0) -> Heard:
        """What has come, and what comes in so many seconds unless the server hangs up before."""
        until = time.monotonic() + seconds
        while not self.heard.closed:
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            try:
                part = self._socket.recv(1 << 16)
            except (TimeoutError, ssl.SSLWantReadError):
                break
            except OSError:
                part = b""
            if not part:
                self.heard.closed = True
            self.heard.take(part)
            if time.monotonic() > until:
                break
        self._socket.settimeout(20)
        return self.heard

    def close(self) -> None:
        """Hangs up without a word."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
