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
HELD: Final = 1.0
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
    sent="10,000 TCP connections that shake no hands, in turn to the ports of gRPC, data, "
    "enrolment and /metrics",
    outcome="closed at once beyond the most that the port takes, and the rest in 10 s; clients "
    "that are connected are answered in time, new ones when places are free",
)
@pytest.mark.parametrize("port", PORTS)
def test_ten_thousand_connections(stage: Stage, port: str) -> None:
    number, anew = PORTS[port]
    with (
        stage.unmoved(ALLOWED),
        stage.others_served() as others,
        hoarding(number(stage), CONNECTIONS, HELD) as told,
    ):
        time.sleep(1.0)
    free = answered(lambda: anew(stage), 15.0)

    stage.note(f"{port}: {told}; a new connection is served {free:.2f} s later")
    assert others.failed == []
    assert others.worst < IN_TIME, str(others)
    assert told["dialled"] > CONNECTIONS * 0.9
