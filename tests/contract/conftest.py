"""The databases that the contract of the state is held against."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection
from support.postgres import Postgres, need_postgres
from support.state import BY_TEST

from server.state.database import Database

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


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A new state for one test, as `Database` takes it."""
    if request.param == "sqlite":
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
    open_database: Callable[[], Database],
) -> Iterator[Callable[[Callable[[Connection], T]], T]]:
    """Runs one command in a transaction of its own, as the writer thread does."""
    database = open_database()
    yield lambda command: database.write_now(BY_TEST, command)
    database.close()
