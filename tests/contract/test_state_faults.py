"""What a lost connection, a full disk and a second server do to the state, on real databases."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support.federation import eventually
from support.postgres import Postgres
from support.state import BY_TEST, begun, released

from fednot.errors import Reason
from server import failpoints
from server.state import ownership
from server.state.connecting import name_of
from server.state.database import (
    CommitUnknownError,
    Database,
    StateError,
    StateLostError,
    StateUnavailableError,
)
from server.state.ownership import LOCK_KEY

OF_CLIENTS = " AND backend_type = 'client backend'"


@pytest.fixture
def name(postgres: Postgres, new_postgres: str) -> str:
    """A new state in a database of its own."""
    return postgres.new_database(new_postgres)


@pytest.fixture
def database(postgres: Postgres, name: str) -> Iterator[Database]:
    made = Database(postgres.url(name))
    yield made
    made.close()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield lambda place: failpoints.enable({failpoints.ARMED: place})
    failpoints.enable({})


def sessions(postgres: Postgres, name: str) -> list[int]:
    query = f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}'{OF_CLIENTS}"
    return [int(str(row[0])) for row in postgres.run(query)]


def cut(postgres: Postgres, name: str) -> None:
    """Ends every connection to a database and waits until it has ended."""
    query = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
    assert postgres.run(query)


def alone(postgres: Postgres, name: str, *pids: int) -> None:
    """Waits until no session of a database is left but these: they end after their clients."""
    expected = sorted(pids)
    eventually("they end", lambda: sorted(sessions(postgres, name)) == expected, 15.0)


class TestPostgres:
    def test_a_second_server_is_refused_until_the_first_has_ended(
        self, postgres: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = Database(postgres.url(name))
        monkeypatch.setattr(ownership, "START_SECONDS", 0.5)
        with pytest.raises(StateError, match="another server runs on this database; stop it first"):
            Database(postgres.url(name))
        first.write_now(BY_TEST, begun)
        first.close()
        monkeypatch.setattr(ownership, "START_SECONDS", 30.0)
        second = Database(postgres.url(name))
        assert second.read_now(released) == 2
        second.close()

    def test_a_start_waits_for_the_session_of_a_server_that_was_killed(
        self, postgres: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ownership, "START_SECONDS", 30.0)
        first = Database(postgres.url(name))
        (killed,) = sessions(postgres, name)
        ending = threading.Timer(0.5, postgres.run, [f"SELECT pg_terminate_backend({killed})"])
        ending.start()
        Database(postgres.url(name)).close()
        ending.join(30)
        first.close()

    def test_a_lost_connection_is_told_and_the_next_command_has_a_new_one(
        self,
        postgres: Postgres,
        name: str,
        database: Database,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        database.write_now(BY_TEST, begun)
        cut(postgres, name)
        with pytest.raises(StateUnavailableError) as told:
            database.read_now(released)
        assert (told.value.reason, told.value.retry_after) == (Reason.STATE_UNAVAILABLE, 2.0)
        assert not isinstance(told.value, CommitUnknownError)
        assert database.read_now(released) == 2
        monkeypatch.setattr(ownership, "START_SECONDS", 0.5)
        with pytest.raises(StateError, match="another server runs"):
            Database(postgres.url(name))
        (own,) = database.read_now(lambda c: c.execute(text("SELECT pg_backend_pid()")).one())
        alone(postgres, name, own)

    def test_a_connection_lost_in_a_commit_leaves_it_unknown(
        self, postgres: Postgres, name: str, database: Database
    ) -> None:
        def command(connection: Any) -> None:
            begun(connection)
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            cut(postgres, name)

        with pytest.raises(CommitUnknownError) as told:
            database.write_now(BY_TEST, command)
        assert told.value.reason is Reason.STATE_UNAVAILABLE
        assert database.unsure
        assert database.read_now(released) == 0

    def test_a_server_that_was_overtaken_ends(
        self, postgres: Postgres, name: str, database: Database
    ) -> None:
        told: list[bool] = []
        database.when_lost(lambda: told.append(True))
        cut(postgres, name)
        other = Database(postgres.url(name))
        with pytest.raises(StateUnavailableError):
            database.read_now(released)
        for _ in range(2):
            with pytest.raises(StateLostError, match="another server runs on this database now"):
                database.write_now(BY_TEST, begun)
        other.close()
        with pytest.raises(StateLostError):
            database.raise_if_lost()
        assert told == [True]

    def test_a_server_that_comes_back_after_another_one_ends(
        self, postgres: Postgres, name: str, database: Database
    ) -> None:
        """What it has in memory is of before; the other one may have changed everything."""
        cut(postgres, name)
        Database(postgres.url(name)).close()
        alone(postgres, name)
        with pytest.raises(StateUnavailableError):
            database.read_now(released)
        with pytest.raises(StateLostError, match="has used this database meanwhile"):
            database.read_now(released)

    def test_its_own_connection_from_before_is_ended(
        self, postgres: Postgres, name: str, database: Database
    ) -> None:
        """The first one lives on in PostgreSQL, as after a cut cable, and holds the lock."""
        (old,) = sessions(postgres, name)
        kept, database._connection = database._connection, None
        with pytest.raises(StateUnavailableError, match="the connection before is being ended"):
            database.read_now(released)
        eventually("it ends", lambda: old not in sessions(postgres, name), 15.0)
        assert database.read_now(released) == 0
        assert old not in sessions(postgres, name)
        assert kept is not None
        kept.invalidate()

    def test_a_lock_that_was_just_given_back_is_no_other_server(
        self, postgres: Postgres, name: str, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its holder, the connection from before, ends between the try and the look."""
        nobody = text("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = 0 * :key")
        monkeypatch.setattr(ownership, "_HOLDERS", nobody)
        kept, database._connection = database._connection, None
        with pytest.raises(StateUnavailableError, match="has just given it back"):
            database.read_now(released)
        assert kept is not None
        kept.invalidate()
        alone(postgres, name)
        assert database.read_now(released) == 0

    def test_postgres_that_dies_and_comes_back_is_survived(
        self, postgres: Postgres, database: Database
    ) -> None:
        database.write_now(BY_TEST, begun)
        postgres.stop(signal.SIGQUIT)
        try:
            for _ in range(3):
                with pytest.raises(StateUnavailableError):
                    database.read_now(released)
        finally:
            postgres.start()
        assert database.read_now(released) == 2

    def test_no_statement_and_no_wait_for_a_lock_is_unbounded(self, database: Database) -> None:
        names = ("statement_timeout", "lock_timeout", "tcp_user_timeout", "synchronous_commit")
        found = [database.read_now(lambda c, n=n: c.scalar(text(f"SHOW {n}"))) for n in names]
        assert found == ["30s", "10s", "0", "on"]
        isolation = database.read_now(lambda c: c.scalar(text("SHOW transaction_isolation")))
        assert isolation == "repeatable read"

    def test_a_statement_that_takes_too_long_may_be_tried_again(self, database: Database) -> None:
        def command(connection: Any) -> None:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 50")
            connection.exec_driver_sql("SELECT pg_sleep(5)")

        with pytest.raises(StateUnavailableError, match="canceling statement"):
            database.read_now(command)
        assert database.read_now(released) == 0

    def test_a_database_that_is_not_there_is_named_without_the_password(
        self, postgres: Postgres
    ) -> None:
        with pytest.raises(StateError, match=r"/nowhere cannot be used: .*does not exist") as told:
            Database(postgres.url("nowhere"))
        assert "secret" not in str(told.value)
        assert name_of(postgres.url("x")).startswith("postgresql+psycopg://fednot:***@127.0.0.1")

    def test_the_lock_is_the_one_of_the_session(
        self, postgres: Postgres, name: str, database: Database
    ) -> None:
        held = postgres.run("SELECT objid FROM pg_locks WHERE locktype = 'advisory'", name)
        assert [int(str(row[0])) for row in held] == [LOCK_KEY]
        assert database.read_now(released) == 0

    async def test_nothing_is_left_to_scrub(self, database: Database) -> None:
        assert await database.scrub()


class TestBoth:
    async def test_a_fault_before_a_commit_writes_nothing_and_is_told_as_what_it_is(
        self, open_database: Any, failing: Any
    ) -> None:
        database = open_database()
        failing(f"before commit.{BY_TEST} =ENOSPC")
        with pytest.raises(StateUnavailableError) as told:
            await database.write(BY_TEST, begun)
        assert told.value.reason is Reason.NO_SPACE
        assert not database.unsure
        failing("")
        assert await database.read(released) == 0
        await database.write(BY_TEST, begun)
        database.close()

    async def test_a_commit_whose_answer_is_lost_is_unknown(
        self, open_database: Any, failing: Any
    ) -> None:
        database = open_database()
        failing(f"after commit.{BY_TEST} =ECONNRESET")
        with pytest.raises(CommitUnknownError):
            await database.write(BY_TEST, begun)
        failing("")
        assert database.unsure
        assert await database.read(released) == 2
        database.close()

    def test_a_command_cannot_wait_for_another_one(self, open_database: Any) -> None:
        database = open_database()
        with pytest.raises(RuntimeError, match="it would wait for itself"):
            database.read_now(lambda _: database.read_now(released))
        database.close()

    async def test_what_a_read_writes_is_undone(self, open_database: Any) -> None:
        database = open_database()
        await database.read(begun)
        assert await database.read(released) == 0
        database.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.geteuid():
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


class TestSqlite:
    def test_a_full_disk_is_told_and_the_state_goes_on_once_there_is_room(
        self, small_disk: Path
    ) -> None:
        database = Database(small_disk / "state.sqlite3")
        database.write_now(BY_TEST, begun)
        ballast = small_disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        long = "x" * 100_000
        statement = text("UPDATE federation SET manifest = :long")
        with pytest.raises(StateUnavailableError) as told:
            database.write_now(BY_TEST, lambda c: c.execute(statement, {"long": long}))
        assert told.value.reason is Reason.NO_SPACE
        assert database.read_now(released) == 2
        ballast.unlink()
        database.write_now(BY_TEST, lambda c: c.execute(statement, {"long": long}))
        database.close()

    async def test_a_lock_that_another_program_holds_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "state.sqlite3"
        first, second = Database(path), Database(path)
        await second.write(BY_TEST, lambda c: c.exec_driver_sql("PRAGMA busy_timeout=10"))
        started, told = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def holds(_: Any) -> None:
            loop.call_soon_threadsafe(started.set)
            assert told.wait(60)

        holding = asyncio.create_task(first.write(BY_TEST, holds))
        await started.wait()
        with pytest.raises(StateUnavailableError, match="locked"):
            await second.write(BY_TEST, begun)
        told.set()
        await holding
        await second.write(BY_TEST, begun)
        first.close()
        second.close()
