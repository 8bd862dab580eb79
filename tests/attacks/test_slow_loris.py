"""Senders that never finish: a byte at a time, at every place where the server waits for bytes.

All of them at the same time, since each is borne for some seconds; the tests look at what became of
each kind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from support.federation import refusal
from support.hostile.http2 import PREFACE, Http2, begin_call
from support.hostile.loris import Fate, Lorises, drip, drops
from support.hostile.sockets import DataGuest, context_of, plain, secured
from support.hostile.stage import MEBIBYTE, Latencies, Stage
from support.hostile.told import attack
from support.raw_client import Part, constant_update

from fednot.data_messages import framed
from fednot.errors import Reason
from fednot.v1 import data_channel_pb2, federation_pb2

HELLO: Final = bytes.fromhex("16030100c8010000c40303") + bytes(512)
"""The beginning of a ClientHello that announces 200 bytes."""
EACH: Final = 10
"""So many of the kinds that anybody may be."""
WEB: Final = 8
"""As many as /metrics answers at once."""
PATIENCE: Final = 60.0
ENOUGH: Final = 30.0
IN_TIME: Final = 5.0
"""How long others may wait for an answer, half as long as a slow sender is borne."""
ALLOWED: Final = 48 * MEBIBYTE
UPDATE = constant_update(0.001).numpy().tobytes()


@dataclass
class Told:
    """What became of all of them, and of others meanwhile."""

    fates: dict[str, Fate]
    others: Latencies
    scraped: float


@pytest.fixture(scope="module")
def told(begun: Stage) -> Iterator[Told]:
    """All kinds at once, in a round in which two hostile clients have work."""
    lorises = Lorises()
    with begun.open_round("trudy") as opened, begun.unmoved(ALLOWED):
        trudy, hers = opened.others[0]
        with begun.others_served(0.2) as others:
            for kind, send in of_anybody(begun).items():
                lorises.begin(kind, send, WEB if kind == "metrics" else EACH)
            slow = opened.mallory, opened.work
            lorises.begin("upload", lambda: upload_slowly(*slow))
            header = trudy.header(hers)
            lorises.begin("upload of data", lambda: send_data_slowly(begun, header))
            time.sleep(1.0)
            scraped = scrape_again(begun)
            lorises.await_end(PATIENCE)
    return Told(lorises.fates, others, scraped)


def of_anybody(stage: Stage) -> dict[str, Callable[[], object]]:
    """Those that have no work, by where they are slow."""
    port, data, enrolment = stage.federation.port, stage.data_port, stage.enrolment_port
    identity = stage.identity()
    request = framed(
        data_channel_pb2.DataRequest(upload=federation_pb2.UpdateHeader(work_id="x" * 200))
    )
    return {
        "handshake": lambda: drip(plain(port), HELLO, PATIENCE),
        "handshake of enrolment": lambda: drip(plain(enrolment), HELLO, PATIENCE),
        "handshake of data": lambda: drip(plain(data), HELLO, PATIENCE),
        "preface": lambda: drip(secured(port, context_of(identity)), PREFACE, PATIENCE),
        "preface of enrolment": lambda: drip(
            secured(enrolment, context_of(identity, show=False)), PREFACE, PATIENCE
        ),
        "call of enrolment": lambda: call_without_message(stage),
        "request of data": lambda: drip(DataGuest(data, identity).socket, request, PATIENCE),
        "metrics": lambda: drip(
            plain(stage.federation.http_port), b"GET /metrics HTTP/1.1\r\nX: " * 9, PATIENCE
        ),
    }


def call_without_message(stage: Stage) -> object:
    """Opens a call of the port of enrolment, acknowledges settings, and sends no message."""
    identity = stage.identity()
    connected = secured(stage.enrolment_port, context_of(identity, show=False))
    connection = Http2(connected)
    connection.acknowledge()
    path = "/fednot.v1.EnrolmentService/Enroll"
    connection.send(begin_call(1, path, stage.enrolment_address))
    return drip(connected, b"", PATIENCE)


def upload_slowly(client: object, work: federation_pb2.TrainWork) -> object:
    """An update over gRPC, a byte at a time; gives what it is refused with."""
    stop = threading.Event()

    def parts() -> Iterator[Part]:
        yield Part(header=client.header(work))  # type: ignore[attr-defined]
        for drop in drops(UPDATE, stop):
            yield Part(chunk=drop)

    try:
        return refusal(lambda: client.stub.UploadUpdate(parts(), timeout=ENOUGH))  # type: ignore[attr-defined]
    finally:
        stop.set()


def send_data_slowly(stage: Stage, header: federation_pb2.UpdateHeader) -> object:
    """The same over the data channel."""
    with DataGuest(stage.data_port, stage.identity(name="trudy")) as guest:
        guest.say(framed(data_channel_pb2.DataRequest(upload=header)))
        assert guest.answer().HasField("grant")
        stop = threading.Event()

        def send() -> None:
            try:
                for drop in drops(UPDATE, stop):
                    guest.say(drop)
            except OSError:
                pass

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        try:
            guest.socket.settimeout(ENOUGH)
            return guest.refusal()
        finally:
            stop.set()
            sending.join(5)


def scrape_again(stage: Stage) -> float:
    """How long it takes until /metrics answers, with slow ones at all its places."""
    start = time.monotonic()
    while True:
        try:
            stage.federation.http("/metrics")
        except OSError:
            if time.monotonic() - start > PATIENCE:
                raise
            time.sleep(0.2)
        else:
            return time.monotonic() - start


def assert_cut(stage: Stage, fate: Fate, seconds: float) -> None:
    stage.note(f"{len(fate.borne)} borne for {min(fate.borne):.1f} to {fate.longest:.1f} s")
    assert [error for error in fate.told if isinstance(error, TimeoutError)] == []
    assert fate.longest < seconds, fate


@attack(
    "slow loris: TLS handshakes",
    sent="10 ClientHellos a byte at a time to each port: gRPC, enrolment, data",
    outcome="cut after 10 s",
)
@pytest.mark.parametrize("kind", ["handshake", "handshake of enrolment", "handshake of data"])
def test_slow_handshakes(stage: Stage, told: Told, kind: str) -> None:
    assert_cut(stage, told.fates[kind], 15)


@attack(
    "slow loris: HTTP/2 prefaces",
    sent="10 prefaces a byte at a time after the handshake, to gRPC and to enrolment",
    outcome="cut after 5 s",
)
@pytest.mark.parametrize("kind", ["preface", "preface of enrolment"])
def test_slow_prefaces(stage: Stage, told: Told, kind: str) -> None:
    assert_cut(stage, told.fates[kind], 15)


@attack(
    "slow loris: enrolments",
    sent="10 calls of Enroll without their message, by somebody without a certificate",
    outcome="cut after at most 43 s",
)
def test_slow_enrolments(stage: Stage, told: Told) -> None:
    assert_cut(stage, told.fates["call of enrolment"], 50)


@attack(
    "slow loris: the data channel",
    sent="10 requests a byte at a time",
    outcome="cut after 30 s",
)
def test_slow_requests_of_data(stage: Stage, told: Told) -> None:
    assert_cut(stage, told.fates["request of data"], 45)


@attack(
    "slow loris: /metrics",
    sent="8 requests a byte at a time, as many as are answered at once",
    outcome="cut after 15 s; until then nobody else is answered there",
)
def test_slow_requests_of_metrics(stage: Stage, told: Told) -> None:
    stage.note(f"/metrics answered again after {told.scraped:.1f} s")
    assert_cut(stage, told.fates["metrics"], 30)
    assert told.scraped < 30


@attack(
    "slow loris: uploads",
    sent="an update of two bytes a second over gRPC and over the data channel, in all upload slots",
    outcome="SLOW_SENDER after 10 s; others are served meanwhile, and the round completes",
)
@pytest.mark.parametrize("kind", ["upload", "upload of data"])
def test_slow_uploads(stage: Stage, told: Told, kind: str) -> None:
    fate = told.fates[kind]
    assert_cut(stage, fate, 25)
    assert [getattr(error, "reason", error) for error in fate.told] == [Reason.SLOW_SENDER]
    assert told.others.failed == []
    assert told.others.worst < IN_TIME, str(told.others)
