"""Which rounds go on after a restart, whatever database keeps them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection
from support.state import (
    NEGATING,
    RECOVERING,
    accepted,
    begun,
    cancelled,
    deletion_of,
    driven,
    new_round,
    version,
)

from server.records import Attempt, RoundOutcome, RoundPhase, RunState
from server.resumption import SHORTEST_SECONDS, seconds_left, take_over
from server.state import job_rows, round_rows, version_rows


def started(c: Connection) -> None:
    begun(c)
    round_rows.start_round(c, new_round(base_version=2))


def recovering(c: Connection) -> None:
    """A deletion of c1 whose first attempt started at version 3, and its round."""
    begun(c)
    accepted(c)
    job = driven(c, "r1", RECOVERING)
    version_rows.insert_version(c, version(3, "unlearning", generation=1))
    job_rows.insert_attempt(c, Attempt(job.id, 1, "not", (), 3))
    of_job = {"phase": RoundPhase.RECOVERY, "run_id": 0, "job_id": job.id, "attempt": 1}
    round_rows.start_round(c, new_round("c2", base_version=3, **of_job))


def taken_over(c: Connection, current: int) -> tuple[list[int], list[int]]:
    kept, aborted = take_over(c, current, 50.0)
    return [found.number for found in kept], list(aborted)


class TestResumption:
    """One state; `run` is a fixture of conftest.py, once for each database."""

    def test_a_training_round_goes_on(self, run: Any) -> None:
        run(started)
        assert run(lambda c: taken_over(c, 2)) == ([1], [])
        assert run(lambda c: taken_over(c, 2)) == ([1], []), "as often as the server starts"
        assert run(lambda c: round_rows.get_round(c, 1)).outcome is RoundOutcome.RUNNING

    def test_a_round_on_an_older_version_is_aborted(self, run: Any) -> None:
        run(started)
        assert run(lambda c: taken_over(c, 3)) == ([], [1])
        ended = run(lambda c: round_rows.get_round(c, 1))
        assert (ended.outcome, ended.ended_at) == (RoundOutcome.ABORTED, 50.0)
        assert run(lambda c: taken_over(c, 2)) == ([], [])

    def test_a_round_whose_run_has_ended_is_aborted(self, run: Any) -> None:
        run(started)
        run(lambda c: round_rows.end_run(c, 1, RunState.STOPPED))
        assert run(lambda c: taken_over(c, 2)) == ([], [1])

    def test_a_round_that_a_deletion_aborted_does_not_go_on(self, run: Any) -> None:
        run(started)
        run(accepted)
        assert run(lambda c: taken_over(c, 2)) == ([], [])
        run(cancelled)
        assert run(lambda c: taken_over(c, 2)) == ([], [])
        assert run(lambda c: round_rows.get_round(c, 1)).outcome is RoundOutcome.ABORTED

    def test_a_recovery_round_goes_on_in_its_attempt(self, run: Any) -> None:
        run(recovering)
        assert run(lambda c: taken_over(c, 3)) == ([1], [])

    def test_a_recovery_round_of_an_attempt_that_is_over_is_aborted(self, run: Any) -> None:
        run(recovering)
        run(lambda c: job_rows.move(c, deletion_of(c).job, NEGATING, now=40.0))
        assert run(lambda c: taken_over(c, 3)) == ([], [1])

    def test_a_recovery_round_of_an_earlier_attempt_is_aborted(self, run: Any) -> None:
        run(recovering)
        job = run(deletion_of).job
        run(lambda c: version_rows.insert_version(c, version(4, "unlearning", generation=2)))
        run(lambda c: job_rows.insert_attempt(c, Attempt(job.id, 2, "not", (), 4)))
        assert run(lambda c: taken_over(c, 3)) == ([], [1])


@pytest.mark.parametrize(
    ("now", "left"),
    [
        (1000.0, 600.0),
        (1400.0, 200.0),
        (1599.0, SHORTEST_SECONDS),
        (9000.0, SHORTEST_SECONDS),
        (0.0, 600.0),
    ],
)
def test_a_round_has_what_is_left_of_its_time(now: float, left: float) -> None:
    """It began at 1000 and has 600 s; a clock that was set back gives it no more than those."""
    assert seconds_left(new_round(started_at=1000.0), 600.0, now) == left


def test_a_short_round_gets_no_more_than_its_policy_gives() -> None:
    assert seconds_left(new_round(started_at=1000.0), 5.0, 9000.0) == 5.0
