"""How the parts of a state are opened, and the one way to read one beside a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DatabaseError

from server.settings import StateSettings
from server.state import faults, upgrading
from server.state.connecting import engine_for, name_of, will_write
from server.state.database import Database, StateError


def open_database(settings: StateSettings) -> Database:
    """The database, to be written to by whoever has the lock of the state directory."""
    return Database(settings.database_place)


@contextmanager
def snapshot(place: Path | str) -> Iterator[Connection]:
    """A database as it is at one moment, while others write to it; nothing is written through it.

    Raises StateError if there is none, or if it is not of this program's schema.
    """
    if isinstance(place, Path) and not place.is_file():
        raise StateError(f"there is no state in {place}; give the server's --state-dir")
    engine = engine_for(place)
    try:
        with engine.connect() as connection:
            will_write(connection, False)
            with connection.begin() as transaction:
                _check_schema(upgrading.revision_of(connection))
                yield connection
                transaction.rollback()
    except DatabaseError as error:
        raise StateError(f"{name_of(place)} cannot be read: {faults.said_by(error)}") from error
    finally:
        engine.dispose()


@contextmanager
def rows_in(path: Path) -> Iterator[Connection]:
    """The rows of a backup, whose file is not changed, not even by being opened."""
    engine = create_engine(f"sqlite:///file:{path.resolve()}?immutable=1&uri=true")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def schema() -> str:
    """The schema that this program reads."""
    return upgrading.NEWEST


def _check_schema(found: str) -> None:
    if found != schema():
        raise StateError(
            f"the state has schema {found or 'none'} and this program reads {schema()}; start the "
            "server on it once, or run the version of fednot that wrote it"
        )
