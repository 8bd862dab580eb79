"""Retries, outages and health of the connection, without a network."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

import grpc
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry

from client import connection as module
from client.backoff import LONGEST_SECONDS, Backoff
from client.connection import BrokenStreamError, Connection, FinalRefusalError, SessionLostError
from client.metrics import ClientMetrics
from fednot.errors import FednotError, Reason
from fednot.rpc_errors import to_status
from fednot.training import WorkCancelledError


def failed(code: grpc.StatusCode, text: str = "no route") -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), text)


def refused(reason: Reason) -> aio.AioRpcError:
    error = FednotError(reason, "it is so")
    trailing = aio.Metadata(("grpc-status-details-bin", to_status(error).SerializeToString()))
    return aio.AioRpcError(grpc.StatusCode[error.code], aio.Metadata(), trailing, error.message)


def plays(*acts: BaseException | str) -> Callable[[], Awaitable[str]]:
    left = list(acts)

    async def attempt() -> str:
        act = left.pop(0)
        if isinstance(act, BaseException):
            raise act
        return act

    return attempt


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    return clock


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def connection(clock: Clock, registry: CollectorRegistry) -> Connection:
    return Connection("h:1", ClientMetrics(registry), clock)


async def test_what_passes_is_retried_and_logged_once(
    connection: Connection, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    acts = (
        failed(grpc.StatusCode.UNAVAILABLE),
        failed(grpc.StatusCode.DEADLINE_EXCEEDED),
        TimeoutError(),
        BrokenStreamError("cut"),
        refused(Reason.SHUTTING_DOWN),
        "there",
    )
    assert await connection.call(plays(*acts)) == "there"
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "waiting for the server at h:1: UNAVAILABLE: no route"
    assert lines[1].startswith("reached the server at h:1 again after ")
    assert len(lines) == 2
    assert registry.get_sample_value("fednot_client_reconnects_total") == 1


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (refused(Reason.UNKNOWN_SESSION), SessionLostError),
        (refused(Reason.MANIFEST_MISMATCH), FinalRefusalError),
        (refused(Reason.INVALID_CLIENT_NAME), FinalRefusalError),
        (failed(grpc.StatusCode.UNIMPLEMENTED), FinalRefusalError),
        (refused(Reason.ROUND_OVER), FednotError),
        (refused(Reason.NOT_FINITE), FednotError),
    ],
)
async def test_what_does_not_pass_is_raised_at_once(
    connection: Connection, act: aio.AioRpcError, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        await connection.call(plays(act))


async def test_cancelled_work_ends_the_retries(connection: Connection) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(WorkCancelledError):
        await connection.call(plays(failed(grpc.StatusCode.UNAVAILABLE)), cancelled)


async def test_health_follows_session_answers_and_outage(
    connection: Connection, clock: Clock, registry: CollectorRegistry
) -> None:
    assert not connection.health().ok
    await connection.call(plays("joined"))
    connection.opened(heartbeat_seconds=1)
    connection.waiting_for = "work from h:1"
    health = connection.health()
    assert health.ok
    assert health.detail == {"server": "h:1", "waiting_for": "work from h:1"}
    clock.now += module.LIVE_SECONDS + 1
    assert not connection.health().ok
    await connection.try_once(plays("beat"))
    assert connection.health().ok
    assert await connection.try_once(plays(failed(grpc.StatusCode.UNAVAILABLE))) is None
    clock.now += 3
    assert connection.health().detail["waiting_for"] == "the server at h:1, not reached for 3 s"
    assert registry.get_sample_value("fednot_client_connected") == 0
    await connection.try_once(plays("beat"))
    assert registry.get_sample_value("fednot_client_connected") == 1
    connection.closed()
    assert not connection.health().ok


async def test_a_details_header_that_cannot_be_read_is_no_reason(connection: Connection) -> None:
    trailing = aio.Metadata(
        (
            "grpc-status-details-bin",
            to_status(FednotError(Reason.INTERNAL, "x")).SerializeToString(),
        )
    )
    odd = aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, aio.Metadata(), trailing, "other")
    assert await connection.call(plays(odd, "there")) == "there"


def test_waits_grow_from_a_fifth_of_a_second_to_five() -> None:
    backoff = Backoff()
    waits = [backoff.next() for _ in range(8)]
    assert 0.1 <= waits[0] <= 0.2
    assert LONGEST_SECONDS / 2 <= waits[-1] <= LONGEST_SECONDS
    backoff.reset()
    assert backoff.next() <= 0.2


async def test_a_cancelled_call_is_not_swallowed(connection: Connection) -> None:
    with pytest.raises(asyncio.CancelledError):
        await connection.call(plays(asyncio.CancelledError()))
