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
from fednot.errors import CATALOGUE, FednotError, Reason
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
        refused(Reason.STATE_UNAVAILABLE),
        refused(Reason.NO_SPACE),
        "there",
    )
    assert await connection.call(plays(*acts)) == "there"
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "waiting for the server at h:1: UNAVAILABLE: no route"
    assert lines[1].startswith("reached the server at h:1 again after ")
    assert len(lines) == 2
    assert registry.get_sample_value("fednot_client_reconnects_total") == 1


async def test_pauses_are_short_again_after_an_attempt_that_moved_bytes(
    connection: Connection, clock: Clock
) -> None:
    """Ten growing pauses are at least 0.1+0.2+0.4+0.8+1.6+2.5*5 = 15.6 s, ten first ones 2 s."""
    left = 10

    async def attempt() -> str:
        nonlocal left
        left -= 1
        connection.moved("upload", 5)
        if left:
            raise BrokenStreamError("cut")
        return "there"

    begun = clock.now
    await connection.call(attempt)
    assert clock.now - begun <= 2.0


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (refused(Reason.UNKNOWN_SESSION), SessionLostError),
        (refused(Reason.MANIFEST_MISMATCH), FinalRefusalError),
        (refused(Reason.INVALID_CLIENT_NAME), FinalRefusalError),
        (refused(Reason.CERTIFICATE_REVOKED), FinalRefusalError),
        (refused(Reason.WRONG_ROLE), FinalRefusalError),
        (refused(Reason.NOT_YOUR_NAME), FinalRefusalError),
        (refused(Reason.INVALID_CERTIFICATE), FinalRefusalError),
        (refused(Reason.NO_CERTIFICATE), FinalRefusalError),
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


@pytest.mark.parametrize(
    "reason",
    [
        Reason.CERTIFICATE_EXPIRED,
        Reason.CERTIFICATE_NOT_YET_VALID,
        Reason.UNTRUSTED_CERTIFICATE,
    ],
)
async def test_what_new_files_would_mend_is_waited_for(
    connection: Connection, clock: Clock, reason: Reason, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert await connection.try_once(plays(refused(reason))) is None
    clock.now += 4
    told = connection.health().detail["waiting_for"]
    assert told == "the server at h:1, not reached for 4 s: it is so"
    assert await connection.call(plays(refused(reason), refused(reason), "there")) == "there"
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:2] == [
        f"waiting for the server at h:1: {reason}",
        f"no way to h:1: it is so. {CATALOGUE[reason].remedy}",
    ]
    assert len(lines) == 3


class Look:
    """A look that finds one thing after another, the last for ever; in no thread of asyncio's."""

    def __init__(self, *findings: FednotError | None) -> None:
        self._left = list(findings)
        self.threads: list[str] = []

    def __call__(self) -> FednotError | None:
        self.threads.append(threading.current_thread().name)
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]

    async def made(self, times: int, connection: Connection) -> None:
        """Waits for the look that runs, and sees that there were so many."""
        if connection._looking is not None:
            await connection._looking
        assert len(self.threads) == times


async def test_the_reason_of_an_outage_is_looked_for_and_told_once(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    expired = FednotError(Reason.SERVER_CERTIFICATE_EXPIRED, "it expired on 2026-11-20")
    clock, look = Clock(), Look(None, expired)
    connection = Connection("h:1", ClientMetrics(registry), clock, look)
    down = failed(grpc.StatusCode.UNAVAILABLE)
    await connection.try_once(plays(down))
    await look.made(1, connection)
    assert connection.health().detail["waiting_for"].endswith("not reached for 0 s")
    for seconds in (1, module.LOOK_PAUSE - 1, 1, module.LOOK_PAUSE):
        clock.now += seconds
        await connection.try_once(plays(down))
        if connection._looking is not None:
            await connection._looking
    await look.made(3, connection)
    assert look.threads == 3 * ["fednot-work"]
    assert connection.health().detail["waiting_for"].endswith(": it expired on 2026-11-20")
    assert caplog.text.count("no way to h:1: it expired on 2026-11-20. Renew the server's") == 1
    await connection.try_once(plays("there"))
    clock.now += 1
    await connection.try_once(plays(down))
    await look.made(4, connection)
    assert caplog.text.count("it expired on") == 2


async def test_a_server_that_shuts_down_is_not_looked_at(registry: CollectorRegistry) -> None:
    look = Look(None)
    connection = Connection("h:1", ClientMetrics(registry), Clock(), look)
    await connection.try_once(plays(refused(Reason.SHUTTING_DOWN)))
    await asyncio.sleep(0.05)
    assert look.threads == []


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


async def test_another_process_of_the_name_is_waited_for_and_told_once(
    connection: Connection, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each attempt waits as long as the server says that the other's session lasts."""
    caplog.set_level(logging.INFO)
    error = FednotError(Reason.CLIENT_CONNECTED, "another process is 'c7' now", retry_after=15.0)
    trailing = aio.Metadata(("grpc-status-details-bin", to_status(error).SerializeToString()))
    code = grpc.StatusCode[error.code]
    refusal = aio.AioRpcError(code, aio.Metadata(), trailing, error.message)
    seen = []
    play = plays(refusal, refusal, "joined")

    async def attempt() -> str:
        seen.append(connection.health().detail["waiting_for"])
        return await play()

    assert await connection.call(attempt) == "joined"
    assert clock.now == 130.0
    waits = "the other process to end: another process is 'c7' now"
    assert seen == ["the start", waits, waits]
    connection.opened(5.0)
    assert connection.health().ok
    assert connection.health().detail["waiting_for"] == "the start"
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"waiting for h:1: another process is 'c7' now. {CATALOGUE[error.reason].remedy}",
        "the other process of this name is gone",
    ]


async def test_an_outage_of_a_day_is_waited_out(connection: Connection, clock: Clock) -> None:
    """24 h at 2.5 to 5 s each are at least 17,280 attempts; there is no limit to reach."""
    started, tries = clock.now, 0

    async def attempt() -> str:
        nonlocal tries
        tries += 1
        if clock.now - started < 24 * 3600:
            raise failed(grpc.StatusCode.UNAVAILABLE)
        return "back"

    assert await connection.call(attempt) == "back"
    assert tries > 17_280


def test_clients_do_not_come_back_in_step() -> None:
    """Each wait is drawn from the upper half of its step."""
    first, second = ([backoff.next() for _ in range(9)] for backoff in (Backoff(), Backoff()))
    assert first != second
    assert all(LONGEST_SECONDS / 2 <= wait <= LONGEST_SECONDS for wait in first[-3:])
