"""The databases that the contract of the state is held against."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection
from support.state import BY_TEST

from server.state.database import Database

T = TypeVar("T")


@pytest.fixture(scope="session")
def new_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state as a first start leaves it; making one takes as long as ten tests."""
    path = tmp_path_factory.mktemp("new") / "state.sqlite3"
    Database(path).close()
    return path


@pytest.fixture(params=["sqlite"])
def open_database(new_sqlite: Path, tmp_path: Path) -> Callable[[], Database]:
    """Opens the same state at each call. A further database joins as a further parameter."""
    path = tmp_path / "state.sqlite3"
    shutil.copy(new_sqlite, path)
    return lambda: Database(path)


@pytest.fixture
def run(
    open_database: Callable[[], Database],
) -> Iterator[Callable[[Callable[[Connection], T]], T]]:
    """Runs one command in a transaction of its own, as the writer thread does."""
    database = open_database()
    yield lambda command: database.write_now(BY_TEST, command)
    database.close()
