"""What the server's state promises of several deletions: order, merging, deadlines, legal holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, update
from support.state import (
    COMPLETED,
    DORA,
    NEGATING,
    RECOVERING,
    VERIFYING,
    ask,
    begun,
    cancelled,
    client,
    deletion_of,
    driven,
    new_round,
    refusal_of,
    released,
    version,
)

from fednot.errors import Reason
from server.phases import IllegalMoveError
from server.records import (
    Deletion,
    DestroyedCache,
    DestroyedVersion,
    Job,
    JobPhase,
    RoundOutcome,
    VersionOrigin,
)
from server.state import (
    client_rows,
    deadline_rows,
    deletion_rows,
    destruction_rows,
    job_rows,
    round_rows,
    version_rows,
)
from server.state.fencing import FencedError
from server.state.schema import rounds

MERGED = JobPhase.MERGED


def wanted(c: Connection, number: int, **values: Any) -> Deletion:
    """A deletion `r1` of client `c1`, accepted ten seconds after one another."""
    fields = {"request_id": f"r{number}", "client": f"c{number}"}
    return deletion_rows.accept(c, replace(ask(), **(fields | values)), now=10.0 * number)


def order(c: Connection) -> list[str]:
    """In which order the open deletions would be served, one job after the other."""
    found = []
    while job := job_rows.first_ready(c):
        found.append(job.requests[0])
        driven(c, job.requests[0], COMPLETED)
    return found


def began(c: Connection, request_id: str) -> Job:
    """Has the job of a request begin, as the driver does."""
    job = deletion_of(c, request_id).job
    job_rows.move(c, job, NEGATING, now=99.0)
    job_rows.merge_equals(c, job, now=99.0)
    return job_rows.get_job(c, job.id)


class TestQueue:
    """One state; `run` is a fixture of conftest.py, once for each database."""

    def test_higher_priority_then_earlier_deadline_then_earlier_request(self, run: Any) -> None:
        def command(c: Connection) -> list[str]:
            begun(c)
            for name in ("c4", "c5"):
                client_rows.record_join(c, client(name))
            wanted(c, 1)
            wanted(c, 2, not_after=5000.0)
            wanted(c, 3, not_after=4000.0)
            wanted(c, 4, priority=7)
            wanted(c, 5, priority=-1, not_after=100.0)
            return order(c)

        assert run(command) == ["r4", "r3", "r2", "r1", "r5"]

    @pytest.mark.parametrize("to", [NEGATING, RECOVERING, VERIFYING])
    def test_a_job_that_has_begun_goes_before_any_priority(self, run: Any, to: JobPhase) -> None:
        run(begun)
        first = run(lambda c: wanted(c, 1)).job
        run(lambda c: driven(c, "r1", to))
        run(lambda c: wanted(c, 2, priority=1000))
        assert run(job_rows.first_ready_id) == first.id

    def test_equal_plans_that_wait_are_served_by_one_job(self, run: Any) -> None:
        run(begun)
        asked = [run(lambda c, n=n: wanted(c, n)) for n in (1, 2, 3)]
        job = run(lambda c: began(c, "r1"))
        assert job.requests == ("r1", "r2", "r3")
        assert job.phase is NEGATING
        for found in asked:
            now = run(lambda c, r=found.request_id: deletion_of(c, r))
            assert (now.job.id, now.client, now.accepted_at) == (
                job.id,
                found.client,
                found.accepted_at,
            )
            by_own_job = run(lambda c, j=found.job.id: deletion_rows.get_deletion_of_job(c, j))
            assert by_own_job.request_id == found.request_id
        assert {bar.client for bar in run(client_rows.list_bars)} == {"c1", "c2", "c3"}
        counts = run(deletion_rows.count_by_phase)
        assert counts == {NEGATING: 1, MERGED: 2}

    def test_one_completion_completes_all_that_it_serves(self, run: Any) -> None:
        def command(c: Connection) -> list[JobPhase]:
            begun(c)
            for n in (1, 2):
                wanted(c, n)
            job = began(c, "r2")
            for phase in (RECOVERING, VERIFYING, COMPLETED):
                job_rows.move(c, job_rows.get_job(c, job.id), phase, now=100.0)
            return [deletion_of(c, r).job.phase for r in ("r1", "r2")]

        assert run(command) == [COMPLETED, COMPLETED]
        assert run(job_rows.first_ready_id) == ""
        assert run(deadline_rows.oldest_open) == 0.0

    @pytest.mark.parametrize(
        "other",
        [
            {"method": "retrain"},
            {"layers": "index=2"},
            {"allow_unsafe_layers": False},
            {"policy": replace(ask().policy, max_rounds=8)},
            {"retain": True},
        ],
    )
    def test_another_plan_keeps_a_job_of_its_own(self, run: Any, other: dict[str, Any]) -> None:
        run(begun)
        run(lambda c: wanted(c, 1))
        second = run(lambda c: wanted(c, 2, **other))
        assert run(lambda c: began(c, "r1")).requests == ("r1",)
        assert run(lambda c: deletion_of(c, "r2")).job.id == second.job.id

    def test_priority_and_deadline_are_no_part_of_the_plan(self, run: Any) -> None:
        run(begun)
        run(lambda c: wanted(c, 1))
        run(lambda c: wanted(c, 2, priority=3, not_after=900.0))
        found = run(lambda c: began(c, "r2"))
        assert found.requests == ("r1", "r2")
        assert run(lambda c: deletion_of(c, "r1")).not_after is None
        assert run(lambda c: deletion_of(c, "r2")).not_after == 900.0

    def test_what_waits_for_an_approval_or_comes_later_is_not_merged(self, run: Any) -> None:
        run(begun)
        run(lambda c: wanted(c, 1))
        awaiting = replace(ask("r2", "c2"), caller=DORA)
        run(lambda c: deletion_rows.accept(c, awaiting, 10.0, approval_until=99.0))
        assert run(lambda c: began(c, "r1")).requests == ("r1",)
        late = run(lambda c: wanted(c, 3))
        assert late.job.phase is JobPhase.QUEUED
        assert "c3" in {bar.client for bar in run(client_rows.list_bars)}

    def test_a_merged_request_can_no_longer_be_cancelled(self, run: Any) -> None:
        run(begun)
        second = run(lambda c: [wanted(c, n) for n in (1, 2)])[1]
        run(lambda c: began(c, "r1"))
        for name in ("r2", second.job.id):
            reason, _ = refusal_of(lambda name=name: run(lambda c: cancelled(c, name)))
            assert reason is Reason.NOT_CANCELLABLE
        with pytest.raises(IllegalMoveError):
            run(lambda c: job_rows.move(c, job_rows.get_job(c, second.job.id), NEGATING, 1.0))

    def test_a_request_that_was_cancelled_before_is_left_out(self, run: Any) -> None:
        run(begun)
        for n in (1, 2):
            run(lambda c, n=n: wanted(c, n))
        run(lambda c: cancelled(c, "r2"))
        assert run(lambda c: began(c, "r1")).requests == ("r1",)

    def test_the_deadline_of_the_work_counts_from_the_latest_that_it_serves(self, run: Any) -> None:
        run(begun)
        for n in (1, 2):
            run(lambda c, n=n: wanted(c, n))
        assert run(lambda c: deletion_of(c, "r1")).job.queued_at == 10.0
        assert run(lambda c: began(c, "r1")).queued_at == 20.0


class TestDeadlines:
    """As above."""

    def test_a_deadline_in_the_past_is_refused_but_not_for_a_repeat(self, run: Any) -> None:
        run(begun)
        reason, _ = refusal_of(lambda: run(lambda c: wanted(c, 1, not_after=10.0)))
        assert reason is Reason.INVALID_REQUEST
        found = run(lambda c: wanted(c, 1, not_after=11.0))
        again = replace(ask("r1", "c1"), not_after=11.0)
        assert run(lambda c: deletion_rows.repeated(c, again)) == found

    def test_a_late_deletion_is_noted_once_and_goes_on(self, run: Any) -> None:
        run(begun)
        run(lambda c: wanted(c, 1, not_after=50.0))
        run(lambda c: wanted(c, 2, not_after=70.0))
        assert not run(lambda c: deadline_rows.newly_late(c, 49.0))
        late = run(lambda c: deadline_rows.newly_late(c, 50.0))
        assert [each.request_id for each in late] == ["r1"]
        run(lambda c: deadline_rows.note_overdue(c, late, 50.0))
        assert not run(lambda c: deadline_rows.newly_late(c, 60.0))
        assert run(lambda c: deletion_of(c, "r1")).overdue
        assert not run(lambda c: deletion_of(c, "r2")).overdue
        assert run(deadline_rows.count_overdue) == 1
        assert run(job_rows.first_ready).requests == ("r1",)

    def test_what_has_ended_is_not_late(self, run: Any) -> None:
        run(begun)
        run(lambda c: wanted(c, 1, not_after=50.0))
        run(lambda c: driven(c, "r1", COMPLETED))
        assert not run(lambda c: deadline_rows.newly_late(c, 60.0))
        assert run(deadline_rows.count_overdue) == 0


class TestHolds:
    """As above."""

    def test_a_hold_keeps_what_would_be_destroyed_until_it_is_lifted(self, run: Any) -> None:
        run(begun)
        job = run(lambda c: wanted(c, 1, retain=True)).job
        run(lambda c: version_rows.insert_version(c, version(3)))
        run(lambda c: version_rows.hold(c, before=3, by=job.id))
        assert run(lambda c: version_rows.get_version(c, 2)).held_by == job.id
        assert run(lambda c: version_rows.get_version(c, 1)).held_by == ""
        assert run(lambda c: version_rows.destroy(c, before=3, by="job-2", now=1.0)) == ()
        deletion, is_new = run(lambda c: deletion_rows.lift_hold(c, "r1", DORA, 40.0))
        assert (is_new, deletion.job.hold_lifted_at) == (True, 40.0)
        assert deletion.job.destroyed == (DestroyedVersion(2, "sha-2"),)
        again, is_new = run(lambda c: deletion_rows.lift_hold(c, job.id, DORA, 50.0))
        assert (again, is_new) == (deletion, False)

    def test_without_a_hold_there_is_nothing_to_lift(self, run: Any) -> None:
        run(begun)
        run(lambda c: wanted(c, 1))
        reason, _ = refusal_of(lambda: run(lambda c: deletion_rows.lift_hold(c, "r1", DORA, 1.0)))
        assert reason is Reason.NO_HOLD

    def test_the_base_of_a_job_that_has_begun_is_pinned(self, run: Any) -> None:
        """Nobody but the job itself destroys it, whatever number of versions is to be kept."""
        run(begun)
        job = run(lambda c: wanted(c, 1)).job
        run(lambda c: job_rows.move(c, job, NEGATING, 1.0, base_version=2))
        run(lambda c: [version_rows.insert_version(c, version(n)) for n in (3, 4)])
        gone = run(lambda c: version_rows.destroy(c, before=4, by="run-1", now=1.0))
        assert [each.number for each in gone] == [3]
        gone = run(lambda c: version_rows.destroy(c, before=4, by=job.id, now=1.0))
        assert [each.number for each in gone] == [2]
        assert run(version_rows.initial_version).origin is VersionOrigin.INITIAL
        assert run(released) == 0


class TestCaches:
    """As above."""

    def test_every_client_is_told_and_each_acknowledges_once(self, run: Any) -> None:
        run(begun)
        job = run(lambda c: wanted(c, 1)).job
        run(lambda c: destruction_rows.order(c, job.id, 4, 30.0))
        run(lambda c: destruction_rows.order(c, job.id, 4, 31.0))
        assert list(run(lambda c: destruction_rows.outstanding(c, job.id))) == ["c1", "c2", "c3"]
        found = run(lambda c: destruction_rows.pending(c, "c2"))
        assert (found.job_id, found.generation, found.ordered_at) == (job.id, 4, 30.0)
        cache = DestroyedCache("residual", "ab", 8)
        told = run(lambda c: destruction_rows.acknowledge(c, "c2", found.id, [cache], 33.0))
        assert (told.acknowledged_at, told.destroyed) == (33.0, (cache,))
        assert run(lambda c: destruction_rows.pending(c, "c2")) is None
        assert run(lambda c: destruction_rows.acknowledge(c, "c2", found.id, [], 34.0)) is None
        assert run(lambda c: destruction_rows.acknowledge(c, "c1", found.id, [], 34.0)) is None
        caches = run(lambda c: deletion_of(c, "r1")).job.caches
        assert [each.acknowledged_at for each in caches] == [None, 33.0, None]

    def test_a_client_works_off_the_oldest_order_first(self, run: Any) -> None:
        run(begun)
        jobs = [run(lambda c, n=n: wanted(c, n)).job.id for n in (1, 2)]
        for generation, job in enumerate(jobs, 1):
            run(lambda c, j=job, g=generation: destruction_rows.order(c, j, g, 1.0))
        for job in jobs:
            found = run(lambda c: destruction_rows.pending(c, "c3"))
            assert found.job_id == job
            run(lambda c, i=found.id: destruction_rows.acknowledge(c, "c3", i, [], 2.0))
        assert run(lambda c: destruction_rows.pending(c, "c3")) is None


class TestFences:
    """As above."""

    def test_no_result_with_a_barred_clients_update_is_committed(self, run: Any) -> None:
        """The row of the round is put back to RUNNING, as if nobody had aborted it."""
        run(begun)
        first = run(lambda c: round_rows.start_round(c, new_round("c1", "c2")))
        run(lambda c: wanted(c, 1))
        run(lambda c: c.execute(update(rounds).values(outcome=RoundOutcome.RUNNING)))
        ended = replace(first, outcome=RoundOutcome.COMPLETED, result_version=3)
        with pytest.raises(FencedError, match="c1 may no longer train"):
            run(lambda c: round_rows.end_round(c, ended))
        without = replace(ended, missing={"c1": "it left"})
        run(lambda c: round_rows.end_round(c, without))

    def test_no_result_of_an_older_generation_is_committed(self, run: Any) -> None:
        run(begun)
        first = run(lambda c: round_rows.start_round(c, new_round(base_version=2)))
        run(lambda c: version_rows.insert_version(c, version(3, "unlearning", generation=1)))
        ended = replace(first, outcome=RoundOutcome.COMPLETED, result_version=4)
        with pytest.raises(FencedError, match="older generation"):
            run(lambda c: round_rows.end_round(c, ended))
