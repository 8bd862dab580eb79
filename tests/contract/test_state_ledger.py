"""The ledger of deletions beside each database: what a database that is older than it is told."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, update
from support.state import (
    AWAITING,
    BY_TEST,
    COMPLETED,
    DORA,
    FAILED,
    NEGATING,
    QUEUED,
    accepted,
    ask,
    begun,
    cancelled,
    deletion_of,
    driven,
    released,
)

from server import failpoints
from server.ledger.clock import LedgerClock
from server.ledger.file import Key, Ledger, Standing, read, standings
from server.ledger.opening import open_ledger
from server.ledger.requests import note_asked
from server.records import JobPhase
from server.state import audit_rows, client_rows, deletion_rows, job_rows
from server.state.database import Database, StateError, StateUnavailableError
from server.state.schema import federation, jobs

NEVER = 99e9


class State:
    """A database with its ledger, as the server has them, and its older self."""

    def __init__(self, folder: Path, opened: Callable[[], Database]) -> None:
        self.path = folder / "ledger.jsonl"
        self._opened = opened
        self._kept = folder / "kept.sqlite3"
        self._file = folder / "state.sqlite3"

    @contextmanager
    def running(self) -> Iterator[tuple[Any, Ledger]]:
        """Starts, and gives `run` for one command in a transaction."""
        database = self._opened()
        try:
            ledger = asyncio.run(open_ledger(self.path, database))
            try:
                yield (lambda command: database.write_now(BY_TEST, command)), ledger
                asyncio.run(LedgerClock(database, ledger).look())
            finally:
                ledger.close()
        finally:
            database.close()

    def keep(self) -> None:
        """Keeps the database as it is while no server runs."""
        shutil.copy(self._file, self._kept)

    def bring_back(self) -> None:
        """Puts the kept database in place of what it has become since."""
        shutil.copy(self._kept, self._file)

    def noted(self, request_id: str = "r1") -> Standing:
        found = {key.request_id: each for key, each in standings(read(self.path).entries).items()}
        return found[request_id]


@pytest.fixture
def open_database(new_sqlite: Path, tmp_path: Path) -> Callable[[], Database]:
    """SQLite alone, since a test here goes back to an older copy of the file."""
    path = tmp_path / "state.sqlite3"
    shutil.copy(new_sqlite, path)
    return lambda: Database(path)


@pytest.fixture
def state(tmp_path: Path, open_database: Callable[[], Database]) -> State:
    """A state with three clients and a released version 2, kept once, and not running."""
    made = State(tmp_path, open_database)
    with made.running() as (run, _):
        run(begun)
    made.keep()
    return made


def asked(run: Any, ledger: Ledger, request_id: str = "r1", client: str = "c1", **more: Any) -> str:
    """Accepts a deletion as the coordinator does, and returns its job's id."""

    def command(c: Connection) -> str:
        deletion = accepted(c, request_id, client, DORA, **more)
        note_asked(c, ledger, Key(DORA.key, request_id), 10.0)
        return deletion.job.id

    return str(run(command))


def bars(run: Any) -> list[str]:
    return [bar.client for bar in run(client_rows.list_bars)]


def actions(run: Any) -> list[str]:
    return [entry.action for entry in run(lambda c: audit_rows.list_entries(c, 0, 100))]


def test_a_deletion_that_the_database_lost_is_made_again_as_it_was(state: State) -> None:
    with state.running() as (run, ledger):
        job_id = asked(run, ledger)
        run(lambda c: c.execute(update(jobs).values(priority=7, retain=True)))
        before = run(lambda c: deletion_of(c, caller=DORA))
    state.bring_back()
    with state.running() as (run, _):
        found = run(lambda c: deletion_rows.repeated(c, ask(caller=DORA)))
        assert found.job.id == job_id
        assert (found.client, found.accepted_at) == (before.client, before.accepted_at)
        for name in ("method", "layers", "allow_unsafe_layers", "policy"):
            assert getattr(found.job, name) == getattr(before.job, name)
        assert found.job.phase is QUEUED
        assert (bars(run), run(released), actions(run)) == (["c1"], 0, ["ledger.requeued"])
    with state.running() as (run, _):
        assert len(run(job_rows.open_jobs)) == 1  # and once only


def test_a_killed_accept_is_made_good_at_the_next_start(state: State) -> None:
    """The entry is on the disk and its transaction is not: as after a kill between the two."""
    with state.running() as (run, ledger):
        failpoints.enable({failpoints.ARMED: f"before commit.{BY_TEST} =ENOSPC"})
        try:
            with pytest.raises(StateUnavailableError, match="no room"):
                asked(run, ledger)
        finally:
            failpoints.enable({})
        assert bars(run) == []
    with state.running() as (run, _):
        assert bars(run) == ["c1"]
        assert run(lambda c: deletion_of(c, caller=DORA)).job.phase is QUEUED


def test_a_completed_deletion_that_the_database_lost_is_done_again(state: State) -> None:
    with state.running() as (run, ledger):
        asked(run, ledger)
        run(lambda c: driven(c, "r1", COMPLETED))
    assert state.noted().completed
    state.bring_back()
    with state.running() as (run, _):
        assert run(lambda c: deletion_of(c, caller=DORA)).job.phase is QUEUED
        assert (bars(run), run(released)) == (["c1"], 0)


@pytest.mark.parametrize("phase", [NEGATING, COMPLETED, FAILED])
def test_what_the_database_holds_stays_as_it_is(state: State, phase: JobPhase) -> None:
    with state.running() as (run, ledger):
        asked(run, ledger)
        job = run(lambda c: driven(c, "r1", phase))
    with state.running() as (run, _):
        assert run(lambda c: deletion_of(c, caller=DORA)).job == job
        assert "ledger.requeued" not in actions(run)


def test_a_deletion_that_completed_after_the_backup_goes_on_and_that_is_said(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    with state.running() as (run, ledger):
        asked(run, ledger)
    state.keep()
    with state.running() as (run, _):
        run(lambda c: driven(c, "r1", COMPLETED))
    state.bring_back()
    with state.running() as (run, _):
        assert [job.phase for job in run(job_rows.open_jobs)] == [QUEUED]
    assert "r1 of client c1 had completed after this state was saved; it is done" in caplog.text


def test_a_client_that_joined_after_the_backup_is_barred_by_name(
    tmp_path: Path, open_database: Callable[[], Database]
) -> None:
    state = State(tmp_path, open_database)
    with state.running():
        pass
    state.keep()
    with state.running() as (run, ledger):
        run(begun)
        asked(run, ledger)
    state.bring_back()
    with state.running() as (run, _):
        assert bars(run) == ["c1"]
        assert run(lambda c: client_rows.client_exists(c, "c1"))


class TestLifted:
    def test_a_cancelled_request_that_the_database_lost_stays_cancelled(self, state: State) -> None:
        with state.running() as (run, ledger):
            asked(run, ledger)
            run(lambda c: cancelled(c, caller=DORA))
        assert state.noted().lifted == "cancelled"
        state.bring_back()
        with state.running() as (run, _):
            assert (bars(run), run(released)) == ([], 2)

    def test_a_request_that_was_cancelled_after_the_backup_goes_on(
        self, state: State, caplog: pytest.LogCaptureFixture
    ) -> None:
        with state.running() as (run, ledger):
            asked(run, ledger)
        state.keep()
        with state.running() as (run, _):
            run(lambda c: cancelled(c, caller=DORA))
        state.bring_back()
        with state.running() as (run, _):
            assert bars(run) == ["c1"]
        assert "was cancelled after this state was saved, and goes on" in caplog.text
        assert state.noted().lifted == ""

    def test_a_client_that_was_readmitted_after_the_backup_is_barred_again(
        self, state: State, caplog: pytest.LogCaptureFixture
    ) -> None:
        with state.running() as (run, ledger):
            asked(run, ledger)
            run(lambda c: driven(c, "r1", COMPLETED))
        state.keep()
        with state.running() as (run, _):
            run(lambda c: client_rows.lift_bars_of_client(c, "c1", 30.0))
        assert state.noted().lifted == "readmitted"
        state.bring_back()
        with state.running() as (run, _):
            assert bars(run) == ["c1"]
        assert "`fednot clients readmit c1` lifts that" in caplog.text
        assert state.noted().lifted == ""

    def test_a_deletion_is_done_again_though_its_client_was_readmitted(self, state: State) -> None:
        """The restored weights hold what it was to forget, whoever may train since."""
        with state.running() as (run, ledger):
            asked(run, ledger)
            run(lambda c: driven(c, "r1", COMPLETED))
            run(lambda c: client_rows.lift_bars_of_client(c, "c1", 30.0))
        state.bring_back()
        with state.running() as (run, _):
            assert [job.phase for job in run(job_rows.open_jobs)] == [QUEUED]
            assert (bars(run), run(released)) == (["c1"], 0)

    def test_what_ended_in_a_crash_before_its_note_is_noted_at_the_next_start(
        self, state: State
    ) -> None:
        with state.running() as (run, ledger):
            asked(run, ledger)
        database = state._opened()
        database.write_now(BY_TEST, lambda c: cancelled(c, caller=DORA))
        database.close()
        assert state.noted().lifted == ""
        with state.running() as (run, _):
            assert bars(run) == []
        assert state.noted().lifted == "cancelled"


class TestApproval:
    @pytest.mark.parametrize(("end", "phase"), [((), AWAITING), ((QUEUED, NEGATING), AWAITING)])
    def test_what_needed_a_second_identity_needs_it_again(
        self, state: State, end: tuple[JobPhase, ...], phase: JobPhase
    ) -> None:
        with state.running() as (run, ledger):
            asked(run, ledger, until=NEVER)
            for to in end:
                run(lambda c, to=to: job_rows.move(c, deletion_of(c, caller=DORA).job, to, 20.0))
        state.bring_back()
        with state.running() as (run, _):
            found = run(lambda c: deletion_of(c, caller=DORA))
            assert found.job.phase is phase
            assert found.approval is not None
            assert found.approval.requested_by == DORA.key
            assert (bars(run), run(released)) == (["c1"], 0)

    def test_what_had_completed_was_approved(self, state: State) -> None:
        with state.running() as (run, ledger):
            asked(run, ledger, until=NEVER)
            run(lambda c: job_rows.move(c, deletion_of(c, caller=DORA).job, QUEUED, 15.0))
            run(lambda c: driven(c, "r1", COMPLETED))
        state.bring_back()
        with state.running() as (run, _):
            assert run(lambda c: deletion_of(c, caller=DORA)).job.phase is QUEUED


class TestBelonging:
    def test_a_state_from_before_the_ledger_is_taken_over(self, state: State) -> None:
        database = state._opened()
        database.write_now(BY_TEST, lambda c: accepted(c, caller=DORA))
        forgotten = {"ledger_sequence": 0, "ledger_hash": ""}
        database.write_now(BY_TEST, lambda c: c.execute(update(federation).values(**forgotten)))
        database.close()
        state.path.unlink()
        with state.running():
            pass
        (scope,) = state.noted().asked["scopes"]
        assert (scope["kind"], scope["client"]) == ("client", "c1")

    def test_a_state_does_not_start_without_its_ledger(self, state: State) -> None:
        state.path.unlink()
        with pytest.raises(StateError, match="is missing, and this state has one"), state.running():
            pass

    def test_a_ledger_that_was_shortened_is_refused(self, state: State) -> None:
        with state.running() as (run, ledger):
            asked(run, ledger)
        lines = state.path.read_bytes().splitlines(keepends=True)
        state.path.write_bytes(lines[0])
        with pytest.raises(StateError, match="was shortened or begun anew"), state.running():
            pass

    def test_another_federations_ledger_is_refused(self, state: State) -> None:
        state.path.unlink()
        Ledger.begin(state.path, "another").close()
        with pytest.raises(StateError, match="is another federation's"), state.running():
            pass

    def test_the_state_notes_the_newest_entry_that_it_has_seen(self, state: State) -> None:
        with state.running() as (run, ledger):
            asked(run, ledger)
            row = run(lambda c: c.execute(select(federation)).one())
            assert (row.ledger_sequence, row.ledger_hash) == (1, ledger.head.hash)
