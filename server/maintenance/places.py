"""Where a state's parts are, and the one way in which they are read beside a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, create_engine, event, inspect, select
from sqlalchemy.exc import DatabaseError

from server.settings import StateSettings
from server.state.database import Database, StateError
from server.state.model_store import ModelStore
from server.state.schema import SCHEMA_VERSION, federation


def database_of(settings: StateSettings) -> Path:
    """Where the database is."""
    return settings.state_dir / "state.sqlite3"


def open_database(settings: StateSettings) -> Database:
    """The database, to be written to by whoever has the lock of the state directory."""
    return Database(database_of(settings))


def open_store(settings: StateSettings) -> ModelStore:
    """Where the model versions are kept."""
    return ModelStore(settings.state_dir / "versions")


def store_in(directory: Path) -> ModelStore:
    """The model versions of a backup."""
    return ModelStore(directory)


def hashes_in(settings: StateSettings) -> frozenset[str]:
    """The sha256 of every model file that is there."""
    return frozenset(path.stem for path in (settings.state_dir / "versions").iterdir())


@contextmanager
def snapshot(place: Path) -> Iterator[Connection]:
    """A database as it is at one moment, while others write to it; nothing is written through it.

    Raises StateError if there is none, or if it is not of this program's schema.
    """
    if isinstance(place, Path) and not place.is_file():
        raise StateError(f"there is no state in {place}; give the server's --state-dir")
    engine = create_engine(f"sqlite:///{place}")
    # The driver would begin a transaction only before it writes.
    event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    try:
        with engine.connect() as connection, connection.begin() as transaction:
            found = schema_of(connection)
            if found != schema():
                raise StateError(
                    f"the state has schema {found} and this program reads {schema()}; start the "
                    "server on it once, or run the version of fednot that wrote it"
                )
            yield connection
            transaction.rollback()
    except DatabaseError as error:
        raise StateError(f"{place} cannot be read: {error.orig}") from error
    finally:
        engine.dispose()


def schema() -> str:
    """The schema that this program reads."""
    return str(SCHEMA_VERSION)


def schema_of(connection: Connection) -> str:
    """The schema of a database; "" if it holds no state."""
    if not inspect(connection).has_table(federation.name):
        return ""
    return str(connection.execute(select(federation.c.schema_version)).scalar() or "")
