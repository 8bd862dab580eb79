"""Ten thousand connections to each of the server's ports, by somebody without any certificate."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from support.federation import CALL, OPERATOR, refusal
from support.hostile.sockets import DataGuest
from support.hostile.stage import MEBIBYTE, Stage
from support.hostile.told import attack
from support.identities import Stubs

from fednot.channel import open_enrolment_channel
from fednot.errors import Reason
from fednot.v1 import identity_pb2, identity_pb2_grpc, operator_pb2

PROGRAM: Final = Path(__file__).parents[1] / "support" / "hostile" / "hoard.py"
CONNECTIONS: Final = 10_000
HELD: Final = {"gRPC": 11.0, "data": 6.0, "enrolment": 6.0, "http": 6.0}
"""For how many seconds after the last was dialled; to the end of the handshakes once."""
LONGEST: Final = 30.0
IN_TIME: Final = 5.0
ALLOWED: Final = 256 * MEBIBYTE


@contextmanager
def hoarding(port: int, count: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Somebody who holds connections; afterwards the dictionary says what became of them."""
    told: dict[str, Any] = {}
    command = [sys.executable, str(PROGRAM), str(port), str(count), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hoard:
        try:
            yield told
            output, _ = hoard.communicate(timeout=60)
        finally:
            hoard.kill()
    told |= json.loads(output)


def answered(call: Callable[[], object], seconds: float) -> float:
    """How long it takes until a call over a new connection is answered; tries again until then."""
    start = time.monotonic()
    while True:
        try:
            call()
        except Exception:
            if time.monotonic() - start > seconds:
                raise
            time.sleep(0.1)
        else:
            return time.monotonic() - start


def ask_anew(stage: Stage) -> None:
    """Asks for the status over a new connection."""
    stubs = Stubs.of(stage.federation.address, stage.identity(*OPERATOR))
    with stubs.channel:
        stubs.operator.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL)


def dial_data(stage: Stage) -> None:
    """Shakes hands with the data channel and is told what is wrong with the request."""
    with DataGuest(stage.data_port, stage.identity()) as guest:
        guest.say((0).to_bytes(4))
        assert guest.refusal().reason is Reason.INVALID_STREAM


def dial_enrolment(stage: Stage) -> None:
    with open_enrolment_channel(stage.enrolment_address, stage.trust) as channel:
        stub = identity_pb2_grpc.EnrolmentServiceStub(channel)
        refused = refusal(lambda: stub.Enroll(identity_pb2.EnrollRequest(), timeout=CALL))
    assert refused.reason is Reason.INVALID_TOKEN


def scrape(stage: Stage) -> None:
    assert b"fednot_rounds_total" in stage.federation.http("/metrics")


PORTS: dict[str, tuple[Callable[[Stage], int], Callable[[Stage], None]]] = {
    "gRPC": (lambda stage: stage.federation.port, ask_anew),
    "data": (lambda stage: stage.data_port, dial_data),
    "enrolment": (lambda stage: stage.enrolment_port, dial_enrolment),
    "http": (lambda stage: stage.federation.http_port, scrape),
}


@attack(
    "10,000 connections",
    sent="10,000 TCP connections that shake no hands, held for as long as the server lets them, in "
    "turn to the ports of gRPC, data, enrolment and /metrics",
    outcome="closed at once beyond the most that the port takes, and the rest after 10 s, 15 s for "
    "/metrics. Clients that are connected are answered all the while; a new connection may have to "
    "wait until then",
)
@pytest.mark.parametrize("port", PORTS)
def test_ten_thousand_connections(stage: Stage, port: str) -> None:
    number, anew = PORTS[port]
    with (
        stage.unmoved(ALLOWED),
        stage.others_served() as others,
        hoarding(number(stage), CONNECTIONS, HELD[port]) as told,
    ):
        time.sleep(1.5)
        waited = answered(lambda: anew(stage), LONGEST)

    stage.note(f"{port}: {told}; a new connection is served after {waited:.2f} s")
    assert others.failed == []
    assert others.worst < IN_TIME, str(others)
    assert told["dialled"] > CONNECTIONS * 0.9
    assert told["closed"] > CONNECTIONS / 4
