"""What one caller may take: rates, connections, sizes before a message is parsed, file handles."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.replay import MANIFEST

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.wire import manifest_message
from server.limits import rates
from server.limits.callers import DECISIVE, JOIN, CallerLimits, CallLimits
from server.limits.messages import CONTROL_BYTES, MessageSizes, Oversized
from server.limits.rates import Rate
from server.records import Caller
from server.services.permissions import PERMISSIONS

OFFICER = Caller(Role.OFFICER, "dora")
CLIENT = Caller(Role.CLIENT, "c1")
STATUS = "/fednot.v1.OperatorService/GetStatus"
UNLEARN = "/fednot.v1.DeletionService/Unlearn"
ENROLL = "/fednot.v1.EnrolmentService/Enroll"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@settings(deadline=None)
@given(st.integers(1, 50), st.lists(st.floats(0, 30), max_size=100))
def test_no_minute_sees_more_than_the_burst_and_a_minutes_worth(
    per_minute: int, pauses: list[float]
) -> None:
    """A bucket holds `per_minute` and gains as many a minute: any minute has at most twice that."""
    clock = Clock()
    rate = Rate(per_minute, clock)
    passed = []
    for pause in pauses:
        clock.now += pause
        if not rate.take("k"):
            passed.append(clock.now)
    for start in passed:
        assert sum(start <= at < start + 60 for at in passed) <= 2 * per_minute


def test_who_waits_as_long_as_it_is_told_is_let_in() -> None:
    clock = Clock()
    rate = Rate(6, clock)
    assert [rate.take("k") for _ in range(6)] == [0] * 6
    wait = rate.take("k")
    assert wait == pytest.approx(10)
    clock.now += wait - 0.1
    assert rate.take("k") > 0
    clock.now += 0.11
    assert rate.take("k") == 0


def test_keys_do_not_take_from_one_another_and_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rates, "MOST_BUCKETS", 3)
    clock = Clock()
    rate = Rate(1, clock)
    assert rate.take("a") == 0
    assert rate.take("b") == 0
    assert rate.take("a") > 0
    for key in "cde":
        assert rate.take(key) == 0
    assert len(rate._buckets) == 3


def refused(limits: CallerLimits, method: str, caller: Caller) -> FednotError:
    with pytest.raises(FednotError) as caught:
        limits.check(method, caller)
    assert caught.value.reason is Reason.TOO_MANY_REQUESTS
    assert caught.value.retry_after
    return caught.value


def test_each_kind_of_call_has_its_rate() -> None:
    clock = Clock()
    limits = CallerLimits(CallLimits(requests=10, deletions=2, joins=3, enrolments=1), clock)
    for _ in range(2):
        limits.check(UNLEARN, OFFICER)
    told = refused(limits, UNLEARN, OFFICER)
    assert "DeletionService.Unlearn" in told.message
    assert told.retry_after == pytest.approx(30)
    for _ in range(7):
        limits.check(STATUS, OFFICER)
    refused(limits, STATUS, OFFICER)
    for _ in range(3):
        limits.check(JOIN, CLIENT)
    assert "may join" in refused(limits, JOIN, CLIENT).message
    limits.check(ENROLL, Caller())
    refused(limits, ENROLL, Caller())


def test_nobody_is_counted_over_plaintext() -> None:
    limits = CallerLimits(CallLimits(requests=1, deletions=1, joins=1, connections=1))
    for connection in range(5):
        limits.check(UNLEARN, Caller())
        with limits.calling(Caller(), connection):
            pass


def test_calls_that_decide_are_calls_that_there_are() -> None:
    assert set(PERMISSIONS) >= DECISIVE


def test_an_identity_calls_over_so_many_connections_at_a_time() -> None:
    limits = CallerLimits(CallLimits(connections=2))
    with ExitStack() as stack:
        for connection in ("one", "two", "two"):
            stack.enter_context(limits.calling(OFFICER, connection))
        with pytest.raises(FednotError) as caught, limits.calling(OFFICER, "three"):
            pass
        assert caught.value.reason is Reason.TOO_MANY_CONNECTIONS
        assert caught.value.retry_after
        with limits.calling(CLIENT, "three"):
            pass
    assert not limits._calls
    with limits.calling(OFFICER, "three"):
        pass


def test_a_call_that_fails_gives_its_connection_back() -> None:
    limits = CallerLimits(CallLimits(connections=1))
    with pytest.raises(ZeroDivisionError), limits.calling(OFFICER, "one"):
        raise ZeroDivisionError
    assert not limits._calls


class TestMessageSizes:
    sizes = MessageSizes(MANIFEST, 4 << 20)

    def test_a_message_that_is_too_large_is_not_parsed(self) -> None:
        parsed: list[bytes] = []
        read = self.sizes.reader(UNLEARN, parsed.append)
        found = read(bytes(CONTROL_BYTES + 1))
        assert isinstance(found, Oversized)
        assert found.error.reason is Reason.INVALID_REQUEST
        assert not parsed
        read(bytes(CONTROL_BYTES))
        assert len(parsed) == 1

    def test_a_join_may_be_as_large_as_the_model_needs(self) -> None:
        own = manifest_message(MANIFEST).ByteSize()
        assert self.sizes.of(JOIN) == CONTROL_BYTES + 4 * own
        found = self.sizes.reader(JOIN, None)(bytes(CONTROL_BYTES + 4 * own + 1))
        assert isinstance(found, Oversized)
        assert found.error.reason is Reason.MANIFEST_TOO_LARGE

    def test_nothing_is_larger_than_the_servers_limit(self) -> None:
        small = MessageSizes(MANIFEST, 64 << 10)
        assert {small.of(method) for method in PERMISSIONS} == {64 << 10}


LIMITED = """
import logging, resource, sys
from server.limits.file_handles import connections_within
logging.basicConfig(stream=sys.stdout, format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))
print(connections_within(1000, 2), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("hard", "expected"), [("20000", "1000 2512"), ("1512", "500 1512")], ids=["raised", "clamped"]
)
def test_the_limit_of_open_files_is_raised_or_heeded(hard: str, expected: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", LIMITED, hard],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()
    assert found[-1] == expected
    assert ("--max-connections" in found[0]) is (hard == "1512")
