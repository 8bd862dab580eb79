"""Silence counts against a client only while the server itself ran."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from server.cohorts.remote import RemoteCohort, Session
from server.loop_lag import EVERY
from server.pauses import LEAST, Pauses


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    found = Clock()
    with patch("time.monotonic", found):
        yield found


def run_for(clock: Clock, pauses: Pauses, seconds: float) -> None:
    """The loop runs and is never late."""
    for _ in range(round(seconds / EVERY)):
        clock.now += EVERY
        pauses.tick(0.0)


def test_time_counts_while_the_server_runs(clock: Clock) -> None:
    pauses, begun = Pauses(), clock.now
    run_for(clock, pauses, 10)
    assert pauses.listened(begun) == pytest.approx(10)


def test_all_time_counts_where_nobody_ticks(clock: Clock) -> None:
    pauses, begun = Pauses(), clock.now
    clock.now += 100
    assert pauses.listened(begun) == pytest.approx(100)


@pytest.mark.parametrize("noticed", [False, True])
def test_a_pause_does_not_count_even_before_it_is_noticed(clock: Clock, noticed: bool) -> None:
    pauses, begun = Pauses(), clock.now
    run_for(clock, pauses, 2)
    clock.now += EVERY + 60
    if noticed:
        pauses.tick(60)
    assert pauses.listened(begun) == pytest.approx(2 + EVERY)
    pauses.tick(0 if noticed else 60)
    run_for(clock, pauses, 3)
    assert pauses.listened(begun) == pytest.approx(5 + EVERY)


def test_a_pause_from_before_is_not_taken_off(clock: Clock) -> None:
    pauses = Pauses()
    run_for(clock, pauses, 2)
    clock.now += EVERY + 60
    pauses.tick(60)
    begun = clock.now
    run_for(clock, pauses, 3)
    assert pauses.listened(begun) == pytest.approx(3)
    assert pauses.listened(begun - 10) == pytest.approx(3)


def test_what_the_loop_is_late_each_time_counts(clock: Clock) -> None:
    pauses, begun = Pauses(), clock.now
    for _ in range(10):
        clock.now += EVERY + LEAST
        pauses.tick(LEAST)
    assert pauses.listened(begun) == pytest.approx(10 * (EVERY + LEAST))


def test_a_session_lapses_of_silence_alone(clock: Clock) -> None:
    cohort = RemoteCohort(lapse=15.0)
    cohort.pauses.tick(0.0)
    cohort.open(Session("a", 10, 0, "cpu", last_seen=clock.now))
    clock.now += EVERY + 60
    assert cohort.connected() == {"a"}
    cohort.pauses.tick(60)
    run_for(clock, cohort.pauses, 14)
    assert cohort.connected() == {"a"}
    run_for(clock, cohort.pauses, 1)
    assert cohort.connected() == frozenset()
