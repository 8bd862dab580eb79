"""The databases that the contract of the state is held against."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection, insert, select, text
from support.postgres import Postgres, need_postgres
from support.state import BY_TEST

from server.state.database import Database, StateUnavailableError
from server.state.schema import federation, metadata

T = TypeVar("T")


@pytest.fixture(scope="session")
def new_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state as a first start leaves it; making one takes as long as ten tests."""
    path = tmp_path_factory.mktemp("new") / "state.sqlite3"
    Database(path).close()
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for the tests of one worker."""
    need_postgres()
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def new_postgres(postgres: Postgres) -> str:
    """The name of a database as a first start leaves it."""
    name = postgres.new_database()
    Database(postgres.url(name)).close()
    return name


@pytest.fixture(scope="session")
def kept_postgres(postgres: Postgres, new_postgres: str) -> Iterator[Database]:
    """A state that many tests use one after the other; its statements are compiled only once."""
    database = Database(postgres.url(postgres.new_database(new_postgres)))
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which database a test is run on."""
    found: str = request.param
    return found


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A new state for one test, as `Database` takes it."""
    if kind == "sqlite":
        path = tmp_path / "state.sqlite3"
        shutil.copy(request.getfixturevalue("new_sqlite"), path)
        return path
    template = request.getfixturevalue("new_postgres")
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(server.new_database(template))


@pytest.fixture
def open_database(place: Path | str) -> Callable[[], Database]:
    """Opens the same state at each call."""
    return lambda: Database(place)


@pytest.fixture
def run(
    kind: str, request: pytest.FixtureRequest
) -> Iterator[Callable[[Callable[[Connection], T]], T]]:
    """Runs one command in a transaction of its own, as the writer thread does.

    On a new state, or in PostgreSQL, where making one takes long, on one that was emptied; unless
    the test opens the state itself, too.
    """
    if kind == "postgresql" and "open_database" not in request.fixturenames:
        kept: Database = request.getfixturevalue("kept_postgres")
        try:
            kept.write_now(BY_TEST, _emptied)
        except StateUnavailableError:  # a test before stopped PostgreSQL, and with it this session
            kept.write_now(BY_TEST, _emptied)
        yield lambda command: kept.write_now(BY_TEST, command)
        return
    database: Database = request.getfixturevalue("open_database")()
    yield lambda command: database.write_now(BY_TEST, command)
    database.close()


def _emptied(connection: Connection) -> None:
    """Back to what a first start leaves: one row of the federation, numbers from one."""
    first = connection.execute(select(federation)).mappings().one()
    names = ", ".join(table.name for table in metadata.sorted_tables)
    connection.execute(text("SET LOCAL session_replication_role = replica"))
    connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
    fresh = {"id": first["id"], "state_id": first["state_id"], "opened_by": first["opened_by"]}
    connection.execute(insert(federation).values(fresh))
