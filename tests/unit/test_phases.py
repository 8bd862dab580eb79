"""The phases of a job: every move, allowed or not."""

from __future__ import annotations

from itertools import product

import pytest

from server.phases import CANCELLABLE, ENDED, MOVES, IllegalMoveError, moved
from server.records import JobPhase

ALLOWED = {
    ("awaiting", "queued"),
    ("awaiting", "cancelled"),
    ("queued", "negating"),
    ("queued", "cancelled"),
    ("queued", "failed"),
    ("queued", "merged"),
    ("negating", "recovering"),
    ("negating", "verifying"),
    ("negating", "failed"),
    ("recovering", "verifying"),
    ("recovering", "negating"),
    ("recovering", "failed"),
    ("verifying", "completed"),
    ("verifying", "negating"),
    ("verifying", "failed"),
}
"""DESIGN.md, section 1: in line, another attempt back to negating, and to verifying
if none is left to try and an earlier one is kept, cancelled before negating only,
failed from wherever it was let begin; and merged into an equal one before it begins. Written out,
so that a slip in the table shows."""


@pytest.mark.parametrize(("phase", "to"), list(product(JobPhase, JobPhase)))
def test_a_move_is_made_if_the_design_allows_it_and_refused_if_not(
    phase: JobPhase, to: JobPhase
) -> None:
    if (phase.value, to.value) in ALLOWED:
        assert moved(phase, to) is to
    else:
        with pytest.raises(IllegalMoveError, match=f"cannot go from {phase} to {to}"):
            moved(phase, to)


def test_the_table_has_a_row_for_every_phase() -> None:
    assert set(MOVES) == set(JobPhase)


def test_a_job_has_ended_when_it_is_completed_failed_cancelled_or_merged() -> None:
    ends = {JobPhase.COMPLETED, JobPhase.FAILED, JobPhase.CANCELLED, JobPhase.MERGED}
    assert ends == ENDED


def test_only_a_job_that_waits_can_be_cancelled() -> None:
    assert {JobPhase.AWAITING, JobPhase.QUEUED} == CANCELLABLE


def test_every_open_phase_can_reach_every_end_that_it_may_reach() -> None:
    """From any open phase a job can still complete and fail: nobody is stuck."""
    for phase in set(JobPhase) - ENDED:
        reached, todo = set(), [phase]
        while todo:
            for to in MOVES[todo.pop()] - reached:
                reached.add(to)
                todo.append(to)
        assert {JobPhase.COMPLETED, JobPhase.FAILED} <= reached
