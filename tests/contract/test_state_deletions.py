"""What the server's state promises of deletions, whatever database keeps it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from support.state import (
    COMPLETED,
    FAILED,
    NEGATING,
    QUEUED,
    RECOVERING,
    VERIFYING,
    accepted,
    ask,
    begun,
    cancelled,
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
    Attempt,
    AttemptOutcome,
    Bar,
    DestroyedVersion,
    JobPhase,
    RecoveryPolicy,
    RecoveryRound,
    RoundOutcome,
    RoundPhase,
    StopReason,
)
from server.state import (
    client_rows,
    deadline_rows,
    deletion_rows,
    job_rows,
    phase_rows,
    release_rows,
    round_rows,
    version_rows,
)
from server.state.fencing import FencedError


class TestDeletions:
    """One state; `run` is a fixture of conftest.py, once for each database."""

    def test_accepting_fences_withdraws_aborts_and_queues_together(self, run: Any) -> None:
        run(begun)
        run(lambda c: round_rows.start_round(c, new_round()))
        found = run(accepted)
        assert (found.request_id, found.client, found.accepted_at) == ("r1", "c1", 10.0)
        assert found.aborted_rounds == (1,)
        job = found.job
        assert (job.phase, job.history) == (QUEUED, ((QUEUED, 10.0),))
        assert (job.method, job.layers, job.allow_unsafe_layers) == ("not", "first", True)
        assert job.policy == RecoveryPolicy(max_rounds=7, full_budget=True)
        assert run(client_rows.list_bars) == [Bar("c1", "r1", 10.0)]
        assert [row.barred_by for row in run(client_rows.list_clients)] == ["r1", "", ""]
        assert run(released) == 0
        assert run(job_rows.open_jobs) == [job]

    def test_what_fails_after_accepting_undoes_all_of_it(self, run: Any) -> None:
        run(begun)
        run(lambda c: round_rows.start_round(c, new_round()))

        def command(c: Connection) -> None:
            accepted(c)
            raise RuntimeError("a crash")

        with pytest.raises(RuntimeError):
            run(command)
        assert run(released) == 2
        assert not run(client_rows.list_bars)
        assert not run(job_rows.open_jobs)
        assert run(lambda c: round_rows.get_round(c, 1)).outcome is RoundOutcome.RUNNING

    @pytest.mark.parametrize("phase", [QUEUED, RECOVERING, COMPLETED, FAILED])
    def test_a_request_id_names_one_payload_for_ever(self, run: Any, phase: JobPhase) -> None:
        run(begun)
        assert run(lambda c: deletion_rows.repeated(c, ask())) is None
        first = run(accepted)
        run(lambda c: driven(c, "r1", phase))
        again = run(lambda c: deletion_rows.repeated(c, ask()))
        assert (again.job.id, again.job.phase) == (first.job.id, phase)
        other = ask(digest="another payload")
        refusal = refusal_of(lambda: run(lambda c: deletion_rows.repeated(c, other)))
        assert refusal == (Reason.REQUEST_ID_REUSED, {})

    @pytest.mark.parametrize(
        ("phase", "reason"),
        [
            *((open_, Reason.DELETION_IN_PROGRESS) for open_ in (QUEUED, NEGATING, VERIFYING)),
            (COMPLETED, Reason.CLIENT_ALREADY_FORGOTTEN),
        ],
    )
    def test_a_client_is_not_forgotten_twice(
        self, run: Any, phase: JobPhase, reason: Reason
    ) -> None:
        run(begun)
        run(accepted)
        job = run(lambda c: driven(c, "r1", phase))
        refusal = refusal_of(lambda: run(lambda c: accepted(c, "r2")))
        assert refusal == (reason, {"request_id": "r1", "job_id": job.id})
        assert len(run(client_rows.list_bars)) == 1

    def test_a_client_that_never_joined_cannot_be_forgotten(self, run: Any) -> None:
        run(begun)
        refusal = refusal_of(lambda: run(lambda c: accepted(c, "r1", "nobody")))
        assert refusal == (Reason.UNKNOWN_CLIENT, {})
        assert run(released) == 2

    def test_after_a_failure_the_fence_stands_and_the_deletion_can_be_asked_for_again(
        self, run: Any
    ) -> None:
        run(begun)
        run(accepted)
        run(lambda c: driven(c, "r1", FAILED))
        assert [bar.request_id for bar in run(client_rows.list_bars)] == ["r1"]
        run(lambda c: accepted(c, "r2"))
        run(lambda c: cancelled(c, "r2"))
        assert [bar.request_id for bar in run(client_rows.list_bars)] == ["r1"]

    def test_cancelling_lifts_the_fence_and_restores_the_release(self, run: Any) -> None:
        run(begun)
        run(accepted)
        found = run(lambda c: cancelled(c, "r1"))
        assert found.job.phase is JobPhase.CANCELLED
        assert found.job.failure == "cancelled by somebody without a certificate"
        assert found.job.history == ((QUEUED, 10.0), (JobPhase.CANCELLED, 30.0))
        assert not run(client_rows.list_bars)
        assert run(released) == 2
        run(lambda c: round_rows.start_round(c, new_round("c1")))

    def test_a_cancelled_request_leaves_room_for_another_one(self, run: Any) -> None:
        run(begun)
        run(accepted)
        run(lambda c: cancelled(c, "r1"))
        assert run(lambda c: accepted(c, "r2")).job.phase is QUEUED
        assert [bar.request_id for bar in run(client_rows.list_bars)] == ["r2"]

    def test_cancelling_one_of_two_releases_nothing_until_the_other_is_gone(self, run: Any) -> None:
        run(begun)
        run(accepted)
        run(lambda c: accepted(c, "r2", "c2"))
        run(lambda c: cancelled(c, "r1"))
        assert run(released) == 0
        assert [bar.client for bar in run(client_rows.list_bars)] == ["c2"]
        run(lambda c: cancelled(c, "r2"))
        assert run(released) == 2

    def test_cancelling_after_a_failure_releases_nothing(self, run: Any) -> None:
        run(begun)
        run(accepted)
        run(lambda c: driven(c, "r1", FAILED))
        run(lambda c: accepted(c, "r2", "c2"))
        run(lambda c: cancelled(c, "r2"))
        assert run(released) == 0

    def test_cancelling_does_not_release_a_model_that_was_never_trained(self, run: Any) -> None:
        run(begun)
        run(lambda c: version_rows.insert_version(c, version(3, "initial")))
        run(accepted)
        run(lambda c: cancelled(c, "r1"))
        assert run(released) == 0

    @pytest.mark.parametrize("phase", [NEGATING, RECOVERING, VERIFYING, COMPLETED, FAILED])
    def test_a_job_that_does_not_wait_cannot_be_cancelled(self, run: Any, phase: JobPhase) -> None:
        run(begun)
        run(accepted)
        job = run(lambda c: driven(c, "r1", phase))
        refusal = refusal_of(lambda: run(lambda c: cancelled(c, "r1")))
        assert refusal == (Reason.NOT_CANCELLABLE, {"client": "c1", "job_id": job.id})
        assert run(lambda c: deletion_of(c, "r1")).job.phase is phase
        assert len(run(client_rows.list_bars)) == 1

    def test_a_move_from_a_stale_reading_writes_nothing(self, run: Any) -> None:
        run(begun)
        stale = run(accepted).job
        run(lambda c: job_rows.move(c, stale, NEGATING, 20.0, base_version=2))

        def command(c: Connection) -> None:
            version_rows.insert_version(c, version(3))
            job_rows.move(c, stale, FAILED, 21.0, failure="too late")

        with pytest.raises(FencedError, match=f"{stale.id} is no longer queued"):
            run(command)
        job = run(lambda c: deletion_of(c, "r1")).job
        assert (job.phase, job.base_version, job.failure) == (NEGATING, 2, "")
        assert job.history == ((QUEUED, 10.0), (NEGATING, 20.0))
        assert run(lambda c: version_rows.get_version(c, 3)) is None

    def test_a_move_that_the_table_does_not_allow_writes_nothing(self, run: Any) -> None:
        run(begun)
        job = run(accepted).job
        with pytest.raises(IllegalMoveError):
            run(lambda c: job_rows.move(c, job, COMPLETED, 20.0))
        assert run(lambda c: deletion_of(c, "r1")).job == job

    @pytest.mark.parametrize(
        ("ends", "expected"),
        [
            ((), True),
            ((QUEUED,), False),
            ((VERIFYING,), False),
            ((COMPLETED,), True),
            ((FAILED,), False),
            ((JobPhase.CANCELLED,), True),
            ((FAILED, JobPhase.CANCELLED), False),
            ((COMPLETED, JobPhase.CANCELLED), True),
            ((FAILED, COMPLETED), False),
            ((COMPLETED, FAILED), False),
            ((COMPLETED, QUEUED), False),
            ((QUEUED, COMPLETED), False),
        ],
    )
    def test_a_release_needs_no_open_job_and_none_that_failed(
        self, run: Any, ends: tuple[JobPhase, ...], expected: bool
    ) -> None:
        """The jobs of c1, c2, ... ended so in turn; a cancelled one does not count."""
        run(begun)
        for number, phase in enumerate(ends, 1):
            name = f"r{number}"
            run(lambda c, name=name, n=number: accepted(c, name, f"c{n}"))
            if phase is JobPhase.CANCELLED:
                run(lambda c, name=name: cancelled(c, name))
            else:
                run(lambda c, name=name, phase=phase: driven(c, name, phase))
        assert run(release_rows.may_release) is expected

    @pytest.mark.parametrize("end", [COMPLETED, FAILED])
    def test_a_failed_deletion_is_made_good_by_another_one_of_the_same_client(
        self, run: Any, end: JobPhase
    ) -> None:
        run(begun)
        for name, phase in (("r1", FAILED), ("r2", end)):
            run(lambda c, name=name: accepted(c, name))
            run(lambda c, name=name, phase=phase: driven(c, name, phase))
        assert run(release_rows.may_release) is (end is COMPLETED)

    @pytest.mark.parametrize(
        ("sha256", "end", "expected"),
        [("sha-1", COMPLETED, True), ("sha-3", COMPLETED, False), ("sha-1", FAILED, False)],
    )
    def test_a_failed_deletion_is_made_good_by_a_completed_retraining(
        self, run: Any, sha256: str, end: JobPhase, expected: bool
    ) -> None:
        """c1's failed; c2's starts from version 1, which holds nobody, or from another model."""
        run(begun)
        run(accepted)
        run(lambda c: driven(c, "r1", FAILED))
        job = run(lambda c: accepted(c, "r2", "c2")).job
        start = version(3, "unlearning", sha256=sha256)
        run(lambda c: version_rows.insert_version(c, start))
        attempt = Attempt(job.id, 1, "retrain", (), start_version=3)
        run(lambda c: job_rows.insert_attempt(c, attempt))
        run(lambda c: driven(c, "r2", end))
        assert run(release_rows.may_release) is expected

    def test_an_attempt_comes_back_with_its_rounds_and_its_end(self, run: Any) -> None:
        run(begun)
        job = run(accepted).job
        given = Attempt(job.id, 1, "not", ("w", "v"), 2, warnings=("careful",), explanation="why")
        run(lambda c: job_rows.insert_attempt(c, given))
        run(lambda c: driven(c, "r1", RECOVERING))
        started = new_round("c2", phase=RoundPhase.RECOVERY, job_id=job.id, attempt=1)
        for result, outcome in ((3, RoundOutcome.COMPLETED), (0, RoundOutcome.FAILED)):
            begun_round = run(lambda c: round_rows.start_round(c, started))
            ended = replace(
                begun_round, outcome=outcome, result_version=result, metrics={"accuracy": 0.5}
            )
            run(lambda c, ended=ended: round_rows.end_round(c, ended))
        expected = replace(
            given,
            outcome=AttemptOutcome.SUCCEEDED,
            stop_reason=StopReason.TARGET,
            stopped_at=1,
            explanation="reached",
            rounds=(RecoveryRound(1, 3, {"accuracy": 0.5}),),
        )
        run(lambda c: job_rows.end_attempt(c, expected))
        assert run(lambda c: deletion_of(c, "r1")).job.attempts == (expected,)

    def test_two_attempts_never_share_a_start(self, run: Any) -> None:
        """One negation, one version, one attempt: a second row would be a second negation."""
        run(begun)
        job = run(accepted).job
        first = Attempt(job.id, 1, "not", ("w",), start_version=2)
        run(lambda c: job_rows.insert_attempt(c, first))
        with pytest.raises(IntegrityError):
            run(lambda c: job_rows.insert_attempt(c, replace(first, number=2)))
        with pytest.raises(IntegrityError):
            run(lambda c: job_rows.insert_attempt(c, replace(first, start_version=1)))

    def test_a_completed_job_says_what_it_released_and_destroyed(self, run: Any) -> None:
        run(begun)
        job = run(accepted).job
        run(lambda c: version_rows.insert_version(c, version(3)))
        run(lambda c: version_rows.destroy(c, before=3, by=job.id, now=9.0))
        run(lambda c: job_rows.set_released_by(c, job.id, 3))
        found = run(lambda c: deletion_of(c, "r1")).job
        assert (found.released_version, found.destroyed) == (3, (DestroyedVersion(2, "sha-2"),))

    def test_deletions_are_listed_newest_first_in_pages(self, run: Any) -> None:
        run(begun)
        for number in (1, 2, 3):
            run(lambda c, n=number: accepted(c, f"r{n}", f"c{n}"))
        first = run(lambda c: deletion_rows.list_deletions(c, 0, 2))
        assert [found.request_id for _, found in first] == ["r3", "r2"]
        second = run(lambda c: deletion_rows.list_deletions(c, first[-1][0], 2))
        assert [found.request_id for _, found in second] == ["r1"]
        assert not run(lambda c: deletion_rows.list_deletions(c, second[-1][0], 2))

    def test_a_deletion_is_found_by_request_and_by_job(self, run: Any) -> None:
        run(begun)
        found = run(accepted)
        assert run(lambda c: deletion_of(c, "r1")) == found
        assert run(lambda c: deletion_rows.get_deletion_of_job(c, found.job.id)) == found
        for read in (deletion_of, deletion_rows.get_deletion_of_job):
            refusal = refusal_of(lambda read=read: run(lambda c: read(c, "x")))
            assert refusal == (Reason.UNKNOWN_DELETION, {})

    def test_open_jobs_stand_in_the_order_in_which_they_were_asked_for(self, run: Any) -> None:
        run(begun)
        assert run(deadline_rows.oldest_open) == 0.0
        for number in (3, 1, 2):
            run(lambda c, n=number: deletion_rows.accept(c, ask(f"r{n}", f"c{n}"), 10.0 * n))
        jobs = run(job_rows.open_jobs)
        assert [job.created_at for job in jobs] == [30.0, 10.0, 20.0]
        assert run(deadline_rows.oldest_open) == 10.0
        run(lambda c: driven(c, "r1", COMPLETED))
        assert [job.created_at for job in run(job_rows.open_jobs)] == [30.0, 20.0]
        assert run(deadline_rows.oldest_open) == 20.0
        assert run(deletion_rows.count_by_phase) == {QUEUED: 2, COMPLETED: 1}

    def test_moves_are_told_once_with_the_time_in_the_phase_before(self, run: Any) -> None:
        run(begun)
        before = run(phase_rows.newest)
        run(lambda c: deletion_rows.accept(c, ask("r1", "c1"), 10.0))
        run(lambda c: deletion_rows.accept(c, ask("r2", "c2"), 15.0))
        run(lambda c: job_rows.move(c, deletion_of(c, "r1").job, NEGATING, 30.0))
        run(lambda c: deletion_rows.drop(c, deletion_of(c, "r2").job, "cancelled", 40.0))
        moves = run(lambda c: phase_rows.moves_after(c, before))
        assert [move[1:] for move in moves] == [
            (None, QUEUED, 0.0),
            (None, QUEUED, 0.0),
            (QUEUED, NEGATING, 20.0),
            (QUEUED, JobPhase.CANCELLED, 25.0),
        ]
        assert run(phase_rows.newest) == moves[-1].entry
        assert run(lambda c: phase_rows.moves_after(c, moves[1].entry)) == moves[2:]
        assert run(lambda c: phase_rows.moves_after(c, moves[-1].entry)) == []
