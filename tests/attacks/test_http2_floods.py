"""Floods of HTTP/2 frames from somebody with a certificate, who does not wait for answers.

Nobody else gets so far: without a certificate there is no HTTP/2 on the server's own port.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import pytest
from support.hostile.http2 import (
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    REFUSED_STREAM,
    Heard,
    Http2,
    Kind,
    begin_call,
    frame,
    literal,
    message,
    request_headers,
    reset,
)
from support.hostile.sockets import HOST, context_of, secured
from support.hostile.stage import MEBIBYTE, Latencies, Stage
from support.hostile.told import attack

from fednot.identity.subject import Role

STATUS: Final = "/fednot.v1.OperatorService/GetStatus"
FRAMES: Final = 200_000
RESETS: Final = 20_000
BATCH: Final = 100
LISTEN: Final = 1.0
IN_TIME: Final = 5.0
"""How long others may wait for an answer at the worst, on a machine that does much else."""
ANSWERS: Final = 15.0
"""How long answers that are due may still be on their way."""
FLOOD: Final = 20.0
"""No flood lasts longer, in seconds."""
ALLOWED: Final = 32 * MEBIBYTE
INDEXED: Final = b"\xbd"
"""A whole header field in one byte: number 61 of the static table."""


@dataclass
class Flood:
    """What was heard, and how others fared."""

    connection: Http2
    sent: int = 0

    @property
    def heard(self) -> Heard:
        return self.connection.heard

    def send(self, parts: Iterator[bytes]) -> None:
        """Sends until all was sent, the server hangs up, or the time is over."""
        until = time.monotonic() + FLOOD
        for part in parts:
            if time.monotonic() > until or not self.connection.send(part):
                break
            self.sent += 1
            if self.connection.listen().closed:
                break
        self.connection.listen(LISTEN)

    def await_answers(self, enough: Callable[[Heard], bool]) -> Heard:
        """Listens until the server has said enough, has hung up, or the time is over."""
        until = time.monotonic() + ANSWERS
        while not (self.heard.closed or enough(self.heard)) and time.monotonic() < until:
            self.connection.listen(0.2)
        return self.heard


def refused_in(heard: Heard) -> int:
    """Calls that HTTP/2 itself refused."""
    return heard.resets[ENHANCE_YOUR_CALM] + heard.resets[REFUSED_STREAM]


@contextmanager
def flooding(stage: Stage, memory: int = ALLOWED) -> Iterator[Flood]:
    """A hostile operator's connection; afterwards others were served in time.

    It is dialled last, since gRPC closes one that does not agree to its settings after 5 s.
    """
    identity = stage.identity(Role.OPERATOR, "mallory")
    with stage.unmoved(memory), stage.others_served() as others:
        connection = Http2(secured(stage.federation.port, context_of(identity)))
        try:
            connection.listen(0.2)
            yield Flood(connection)
            time.sleep(LISTEN)
        finally:
            connection.close()
    assert_served(others)


def assert_served(others: Latencies) -> None:
    """Somebody else was answered, each time and soon."""
    assert others.failed == []
    assert others.taken
    assert others.worst < IN_TIME, str(others)


def batches(count: int, one: Callable[[int], bytes]) -> Iterator[bytes]:
    """What `one` makes of each odd number, the ids of a client's streams."""
    for start in range(0, count, BATCH):
        yield b"".join(one(2 * (start + n) + 1) for n in range(BATCH))


@attack(
    "HTTP/2 rapid reset",
    sent="20,000 calls, each taken back at once (CVE-2023-44487), with and without their message",
    outcome="refused by HTTP/2 (REFUSED_STREAM, ENHANCE_YOUR_CALM) beyond the calls that a "
    "connection may have; others are served in time",
)
@pytest.mark.parametrize("agrees", [True, False], ids=["agrees", "does not"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "begun"])
def test_rapid_reset(stage: Stage, whole: bool, agrees: bool) -> None:
    address = stage.federation.address

    def one(stream: int) -> bytes:
        said = message(stream) if whole else b""
        return begin_call(stream, STATUS, address) + said + reset(stream)

    with flooding(stage) as flood:
        if agrees:
            flood.connection.acknowledge()
            flood.connection.listen(0.2)
        flood.send(batches(RESETS, one))
        flood.await_answers(lambda heard: refused_in(heard) > RESETS / 2)

    refused = refused_in(flood.heard)
    stage.note(f"{refused} of {flood.sent * BATCH} calls refused")
    assert flood.heard.closed or refused > RESETS / 2


@attack(
    "HTTP/2 ping flood",
    sent="200,000 PING frames (CVE-2019-9512)",
    outcome="each is answered; no memory goes, others are served",
)
def test_ping_flood(stage: Stage) -> None:
    with flooding(stage) as flood:
        flood.send(frame(Kind.PING, b"01234567") * 1000 for _ in range(FRAMES // 1000))

    stage.note(f"{flood.heard.frames[Kind.PING]} of {flood.sent * 1000} pings answered")


@attack(
    "HTTP/2 settings flood",
    sent="200,000 SETTINGS frames (CVE-2019-9515), whose acknowledgements nobody reads",
    outcome="each is acknowledged, or the connection is closed; no memory goes, others are served",
)
def test_settings_flood(stage: Stage) -> None:
    with flooding(stage) as flood:
        flood.send(frame(Kind.SETTINGS) * 1000 for _ in range(FRAMES // 1000))


@attack(
    "HTTP/2 flood of empty and tiny frames",
    sent="200,000 WINDOW_UPDATE frames of one byte, and as many empty DATA frames (CVE-2019-9518)",
    outcome="no memory goes, others are served",
)
@pytest.mark.parametrize("kind", [Kind.WINDOW_UPDATE, Kind.DATA], ids=["windows", "empty"])
def test_tiny_frames(stage: Stage, kind: Kind) -> None:
    payload = struct.pack(">I", 1) if kind is Kind.WINDOW_UPDATE else b""
    stream = 0 if kind is Kind.WINDOW_UPDATE else 1
    with flooding(stage) as flood:
        flood.connection.send(begin_call(1, STATUS, stage.federation.address))
        one = frame(kind, payload, stream=stream)
        flood.send(one * 1000 for _ in range(FRAMES // 1000))


@attack(
    "HTTP/2 headers without end",
    sent="one call whose header fields go on for 40 MB in CONTINUATION frames (2024)",
    outcome="the call is refused beyond 16 KiB of metadata, what follows is dropped",
)
def test_endless_headers(stage: Stage) -> None:
    start = frame(Kind.HEADERS, request_headers(STATUS, stage.federation.address), stream=1)
    more = frame(Kind.CONTINUATION, literal("x", "y" * 4000), stream=1)
    with flooding(stage) as flood:
        flood.connection.acknowledge()
        flood.connection.send(start)
        flood.send(more * BATCH for _ in range(10_000 // BATCH))

    assert flood.heard.closed or flood.heard.frames[Kind.HEADERS] == 1


def swollen(stream: int, address: str, fields: int) -> bytes:
    """A call with so many fields of one byte each."""
    frames = [frame(Kind.HEADERS, request_headers(STATUS, address), stream=stream)]
    part = INDEXED * 16_000
    frames += [frame(Kind.CONTINUATION, part, stream=stream)] * (fields // len(part))
    return b"".join([*frames, frame(Kind.CONTINUATION, flags=END_HEADERS, stream=stream)])


@attack(
    "an HPACK bomb",
    sent="ten calls of 160,000 header fields of one byte each, by a client that acknowledges the "
    "server's settings, and by one that does not, to which gRPC then grants 16 MiB",
    outcome="the first is refused at 16 KiB of metadata. The second costs some 30 MiB and 0.2 s a "
    "call until it is refused, and its connection is closed after 5 s: this is not prevented, only "
    "bounded",
)
@pytest.mark.parametrize(
    ("agrees", "memory"), [(True, ALLOWED), (False, 512 * MEBIBYTE)], ids=["agrees", "does not"]
)
def test_hpack_bomb(stage: Stage, agrees: bool, memory: int) -> None:
    address = stage.federation.address
    with flooding(stage, memory) as flood:
        if agrees:
            flood.connection.acknowledge()
            flood.connection.listen(0.2)
        flood.send(swollen(2 * n + 1, address, 160_000) for n in range(10))
        heard = flood.await_answers(lambda heard: agrees and heard.frames[Kind.HEADERS] == 10)

    answered = heard.frames[Kind.HEADERS]
    assert answered == 10 if agrees else 0 < answered <= 10, "a call is answered with a refusal"
    assert heard.closed is not agrees


@attack(
    "the same at the port of enrolment",
    sent="the second HPACK bomb by somebody without a certificate, eight calls over each of four "
    "connections",
    outcome="one call of each connection is read, the others are refused by HTTP/2; the "
    "connections are closed after 5 s",
)
def test_hpack_bomb_without_a_certificate(stage: Stage) -> None:
    context = context_of(stage.identity(), show=False)
    with stage.unmoved(512 * MEBIBYTE), stage.others_served() as others:
        guests = [Http2(secured(stage.enrolment_port, context)) for _ in range(4)]
        for guest in guests:
            guest.send(b"".join(swollen(2 * n + 1, HOST, 160_000) for n in range(8)))
        heard = [guest.listen(10.0) for guest in guests]
        for guest in guests:
            guest.close()

    assert_served(others)
    assert all(each.closed for each in heard)
    assert max(each.frames[Kind.HEADERS] for each in heard) <= 1
