"""What the server's state promises, whatever database keeps it: versions, rounds, runs, clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError
from support.state import (
    BY_TEST,
    COMPLETED,
    FAILED,
    RECOVERING,
    WAYS,
    accepted,
    begun,
    client,
    deletion_of,
    driven,
    new_round,
    new_run,
    released,
    version,
)

from fednot.errors import FednotError, Reason
from server.records import (
    Attempt,
    ClientRecord,
    DestroyedVersion,
    JobPhase,
    Round,
    RoundOutcome,
    RoundPhase,
    Run,
    RunState,
)
from server.state import client_rows, job_rows, round_rows, version_rows
from server.state.database import Database, StateError
from server.state.fencing import FencedError

Open = Callable[[], Database]


class TestState:
    """One state; `run` is a fixture of conftest.py, once for each database."""

    def test_a_version_that_is_inserted_becomes_current_and_comes_back_whole(
        self, run: Any
    ) -> None:
        full = version(1, metrics={"loss": 0.5}, negated_tensors=("a", "b"), generation=3)
        run(lambda c: version_rows.insert_version(c, full))
        assert run(version_rows.current_and_released) == (full, None)
        assert run(lambda c: version_rows.get_version(c, 1)) == full
        assert run(lambda c: version_rows.get_version(c, 9)) is None
        assert run(version_rows.next_number) == 2

    def test_a_new_state_has_no_version_and_counts_from_one(self, run: Any) -> None:
        assert run(version_rows.current_and_released) == (None, None)
        assert run(version_rows.next_number) == 1
        with pytest.raises(LookupError):
            run(version_rows.initial_version)

    def test_a_release_can_be_made_and_withdrawn(self, run: Any) -> None:
        run(begun)
        assert run(released) == 2
        run(lambda c: version_rows.set_released(c, 0))
        assert run(released) == 0

    def test_versions_are_listed_newest_first_below_a_key(self, run: Any) -> None:
        run(lambda c: [version_rows.insert_version(c, version(n)) for n in range(1, 6)])
        listed = [
            [found.number for found in run(lambda c, at=at: version_rows.list_versions(c, at, 2))]
            for at in (0, 4, 2, 1)
        ]
        assert listed == [[5, 4], [3, 2], [1], []]

    def test_destroying_spares_initial_newer_and_destroyed_versions(self, run: Any) -> None:
        """Versions 1, 2 and 4 are initial, 6 is not older: of six, 3 and 5 are doomed."""
        origins = ("initial", "initial", "training", "initial", "recovery", "recovery")
        for number, origin in enumerate(origins, 1):
            run(lambda c, n=number, o=origin: version_rows.insert_version(c, version(n, o)))

        def destroy(c: Connection) -> Any:
            return version_rows.destroy(c, before=6, by="job-1", now=9.0)

        doomed = (DestroyedVersion(3, "sha-3"), DestroyedVersion(5, "sha-5"))
        assert run(destroy) == doomed
        assert run(destroy) == ()
        assert run(lambda c: version_rows.destroyed_by(c, "job-1")) == doomed
        assert run(lambda c: version_rows.get_version(c, 3)).destroyed_at == 9.0
        assert run(version_rows.kept_hashes) == {"sha-1", "sha-2", "sha-4", "sha-6"}
        assert run(version_rows.initial_version).number == 1

    def test_bytes_are_kept_while_any_version_needs_them(self, run: Any) -> None:
        """Versions 1 and 3 are the same bytes; version 1 alone is destroyed, then both."""
        for number, sha256 in ((1, "same"), (2, "other"), (3, "same"), (4, "last")):
            run(lambda c, n=number, s=sha256: version_rows.insert_version(c, version(n, sha256=s)))
        run(lambda c: version_rows.destroy(c, before=3, by="j", now=1.0))
        assert run(version_rows.kept_hashes) == {"same", "last"}
        run(lambda c: version_rows.destroy(c, before=4, by="j", now=1.0))
        assert run(version_rows.kept_hashes) == {"last"}

    def test_rounds_trained_are_counted_along_the_parents_of_a_lineage(self, run: Any) -> None:
        """1 initial, 2 and 3 rounds, 4 negated, 5 a round: 3. 6 starts lineage 2, 7 a round: 1."""
        made = [
            version(1, "initial"),
            *(version(number) for number in (2, 3)),
            version(4, "unlearning"),
            version(5, "recovery"),
            version(6, "unlearning", lineage=2, parent=5),
            version(7, "recovery", lineage=2),
        ]
        run(lambda c: [version_rows.insert_version(c, each) for each in made])
        counts = [run(lambda c, v=each: version_rows.rounds_trained(c, v.number)) for each in made]
        assert counts == [0, 1, 2, 2, 3, 0, 1]

    def test_a_round_gets_its_number_and_ends_with_all_its_fields(self, run: Any) -> None:
        run(begun)
        given = new_round(job_id="job-1", attempt=2)
        first, second = (run(lambda c: round_rows.start_round(c, given)) for _ in range(2))
        assert (first.number, second.number, first.cohort) == (1, 2, ("c1", "c2"))
        ended = Round(
            **(
                vars(first)
                | {
                    "outcome": RoundOutcome.DEGRADED,
                    "result_version": 5,
                    "missing": {"c2": "it left"},
                    "metrics": {"accuracy": 0.5},
                    "ended_at": 4.0,
                }
            )
        )
        run(lambda c: round_rows.end_round(c, ended))
        assert run(lambda c: round_rows.get_round(c, 1)) == ended
        assert run(lambda c: round_rows.list_rounds(c, 0, 9)) == [second, ended]
        assert run(lambda c: round_rows.list_rounds(c, 2, 9)) == [ended]
        assert run(lambda c: round_rows.list_rounds(c, 0, 1)) == [second]
        recovered = run(lambda c: round_rows.recovery_rounds(c, "job-1", 2))
        assert recovered == [ended]
        assert not run(lambda c: round_rows.recovery_rounds(c, "job-1", 1))
        with pytest.raises(LookupError):
            run(lambda c: round_rows.get_round(c, 9))

    def test_a_round_with_a_barred_client_does_not_start(self, run: Any) -> None:
        run(begun)
        job = run(accepted).job
        run(lambda c: driven(c, "r1", RECOVERING))
        plan = new_round("c1", "c2", phase=RoundPhase.RECOVERY, job_id=job.id)
        with pytest.raises(FencedError, match="c1 may no longer train"):
            run(lambda c: round_rows.start_round(c, plan))
        assert not run(lambda c: round_rows.list_rounds(c, 0, 9))
        without = replace(plan, cohort=("c2", "c3"))
        assert run(lambda c: round_rows.start_round(c, without)).number == 1

    def test_a_training_round_starts_for_the_active_run_alone(self, run: Any) -> None:
        run(begun)
        with pytest.raises(FencedError, match="training round is no longer wanted"):
            run(lambda c: round_rows.start_round(c, new_round(run_id=2)))
        assert run(lambda c: round_rows.start_round(c, new_round())).number == 1
        run(lambda c: round_rows.end_run(c, 1, RunState.STOPPED))
        with pytest.raises(FencedError, match="training round is no longer wanted"):
            run(lambda c: round_rows.start_round(c, new_round()))

    @pytest.mark.parametrize("phase", list(WAYS))
    def test_a_job_lets_its_recovery_rounds_start_and_no_training_while_it_is_open(
        self, run: Any, phase: JobPhase
    ) -> None:
        """Recovery starts in RECOVERING alone, training once the job has ended."""
        run(begun)
        job = run(accepted).job
        run(lambda c: driven(c, "r1", phase))
        recovery = new_round("c2", phase=RoundPhase.RECOVERY, job_id=job.id, run_id=0)
        started = []
        for plan in (recovery, new_round("c2")):
            try:
                run(lambda c, plan=plan: round_rows.start_round(c, plan))
                started.append(plan.phase.value)
            except FencedError:
                pass
        expected = {RECOVERING: ["recovery"], COMPLETED: ["training"], FAILED: ["training"]}
        assert started == expected.get(phase, [])

    def test_a_round_that_a_deletion_aborted_commits_nothing(self, run: Any) -> None:
        run(begun)
        first = run(lambda c: round_rows.start_round(c, new_round()))
        run(accepted)

        def commit(c: Connection) -> None:
            version_rows.insert_version(c, version(3))
            version_rows.set_released(c, 3)
            round_rows.end_round(c, first)

        with pytest.raises(FencedError, match="round 1 was aborted"):
            run(commit)
        assert run(version_rows.current_and_released) == (version(2), None)
        assert run(lambda c: version_rows.get_version(c, 3)) is None
        assert run(lambda c: round_rows.get_round(c, 1)).outcome is RoundOutcome.ABORTED

    def test_only_running_rounds_are_aborted_and_a_round_ends_once(self, run: Any) -> None:
        run(begun)
        done = run(lambda c: round_rows.start_round(c, new_round()))
        ended = Round(**(vars(done) | {"outcome": RoundOutcome.FAILED}))
        run(lambda c: round_rows.end_round(c, ended))
        with pytest.raises(FencedError):
            run(lambda c: round_rows.end_round(c, ended))
        running = [run(lambda c: round_rows.start_round(c, new_round())).number for _ in range(2)]
        assert run(lambda c: round_rows.abort_running_rounds(c, 8.0)) == tuple(running) == (2, 3)
        assert run(lambda c: round_rows.abort_running_rounds(c, 9.0)) == ()
        assert run(lambda c: round_rows.get_round(c, 1)).outcome is RoundOutcome.FAILED
        assert run(lambda c: round_rows.get_round(c, 3)).ended_at == 8.0

    def test_a_round_is_closed_only_while_it_runs(self, run: Any) -> None:
        run(begun)
        for _ in range(2):
            run(lambda c: round_rows.start_round(c, new_round()))
        run(lambda c: round_rows.close_round(c, 1, RoundOutcome.FAILED, 5.0))
        run(lambda c: round_rows.close_round(c, 1, RoundOutcome.ABORTED, 6.0))
        first, second = (run(lambda c, n=n: round_rows.get_round(c, n)) for n in (1, 2))
        assert (first.outcome, first.ended_at) == (RoundOutcome.FAILED, 5.0)
        assert second.outcome is RoundOutcome.RUNNING

    def test_failures_in_a_row_are_counted_back_to_the_last_success(self, run: Any) -> None:
        """F, C, F, A, F: two since the success; an aborted round is neither."""
        run(begun)
        assert run(lambda c: round_rows.failures_in_a_row(c, run_id=1)) == 0
        outcomes = ("failed", "completed", "failed", "aborted", "failed")
        found = []
        for number, outcome in enumerate(outcomes, 1):
            run(lambda c: round_rows.start_round(c, new_round()))
            ended = RoundOutcome(outcome)
            run(lambda c, n=number, o=ended: round_rows.close_round(c, n, o, 5.0))
            found.append(run(lambda c: round_rows.failures_in_a_row(c, run_id=1)))
        assert found == [1, 0, 1, 1, 2]
        assert run(lambda c: round_rows.failures_in_a_row(c, run_id=2)) == 0

    def test_one_run_is_active_at_a_time_and_its_last_round_completes_it(self, run: Any) -> None:
        first = run(lambda c: round_rows.start_run(c, new_run()))
        assert first == Run(**(vars(new_run()) | {"id": 1}))
        with pytest.raises(FednotError) as refusal:
            run(lambda c: round_rows.start_run(c, new_run()))
        assert refusal.value.reason is Reason.TRAINING_ACTIVE
        run(lambda c: round_rows.count_round(c, 1))
        assert run(round_rows.active_run).rounds_done == 1
        run(lambda c: round_rows.count_round(c, 1))
        assert run(round_rows.active_run) is None
        assert run(round_rows.latest_run).state is RunState.COMPLETED

    def test_a_run_that_ended_leaves_room_for_the_next(self, run: Any) -> None:
        run(lambda c: round_rows.start_run(c, new_run()))
        failed = run(lambda c: round_rows.end_run(c, 1, RunState.FAILED, "why"))
        assert (failed.state, failed.failure) == (RunState.FAILED, "why")
        assert run(lambda c: round_rows.end_run(c, 1, RunState.STOPPED)) == failed
        with pytest.raises(FencedError, match="run 1 is failed"):
            run(lambda c: round_rows.count_round(c, 1))
        assert run(lambda c: round_rows.start_run(c, new_run())).id == 2
        assert run(round_rows.latest_run).id == run(round_rows.active_run).id == 2
        with pytest.raises(LookupError):
            run(lambda c: round_rows.get_run(c, 9))

    def test_a_client_that_joins_again_keeps_the_moment_of_its_first_join(self, run: Any) -> None:
        run(lambda c: client_rows.record_join(c, client("b")))
        again = client("b", joined_at=5.0, last_seen_at=5.0, num_train_examples=7, device="cuda")
        run(lambda c: client_rows.record_join(c, again))
        run(lambda c: client_rows.record_join(c, client("a")))
        run(lambda c: client_rows.record_seen(c, "a", 6.0))
        expected = ClientRecord(**(vars(again) | {"joined_at": 1.0}))
        assert run(client_rows.list_clients) == [client("a", last_seen_at=6.0), expected]
        exist = [run(lambda c, n=name: client_rows.client_exists(c, n)) for name in ("a", "z")]
        assert exist == [True, False]


class TestDatabase:
    """Transactions, the writer thread, and states that this program cannot use."""

    async def test_commands_run_one_after_another_in_one_thread(self, open_database: Open) -> None:
        database = open_database()
        threads, at_once, most = set(), 0, 0

        def command(_: Connection) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            threads.add(threading.current_thread())
            at_once -= 1

        await asyncio.gather(*(database.read(command) for _ in range(50)))
        assert most == 1
        assert len(threads) == 1
        assert threading.current_thread() not in threads
        database.close()

    async def test_a_command_that_raises_is_undone_and_the_next_one_runs(
        self, open_database: Open
    ) -> None:
        database = open_database()

        def command(c: Connection) -> None:
            begun(c)
            raise ValueError("a fault")

        with pytest.raises(ValueError, match="a fault"):
            await database.write(BY_TEST, command)
        assert await database.read(version_rows.current_and_released) == (None, None)
        await database.write(BY_TEST, begun)
        assert await database.read(released) == 2
        database.close()

    async def test_what_was_committed_is_there_when_the_state_is_opened_again(
        self, open_database: Open
    ) -> None:
        database = open_database()
        await database.write(BY_TEST, begun)
        deletion = await database.write(BY_TEST, accepted)
        database.close()
        again = open_database()
        assert await again.read(released) == 0
        assert await again.read(lambda c: deletion_of(c, "r1")) == deletion
        again.close()

    def test_rows_that_name_nothing_are_refused(self, run: Any) -> None:
        run(begun)
        lost = Attempt("no such job", 1, "not", ("w",), start_version=1)
        with pytest.raises(IntegrityError):
            run(lambda c: job_rows.insert_attempt(c, lost))

    def test_a_file_that_is_no_database_is_refused_in_a_clear_sentence(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "state.sqlite3").write_bytes(b"not a database at all" * 100)
        with pytest.raises(StateError, match=r"state\.sqlite3 cannot be used: .*not a database"):
            Database(tmp_path / "state.sqlite3")

    def test_a_commit_survives_a_crash_of_the_machine(self, tmp_path: Path) -> None:
        """SQLite: a write-ahead log that is synced at every commit (synchronous 2 is FULL)."""
        database = Database(tmp_path / "state.sqlite3")
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        found = [database.read_now(lambda c, p=p: c.scalar(text(f"PRAGMA {p}"))) for p in pragmas]
        assert found == ["wal", 2, 1]
        database.close()
