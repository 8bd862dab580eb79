"""How the two databases are reached: SQLite in a file, PostgreSQL by URL. No wait is unbounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from server.state.faults import StateError

POSTGRES: Final = "postgresql+psycopg"
PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "busy_timeout=5000",
    "secure_delete=ON",
)
_WRITES: Final = "fednot_writes"

_SESSION: Final = {
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    "synchronous_commit": "on",
}
_POSTGRES_OPTIONS: Final = {
    "application_name": "fednot-server",
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "options": " ".join(f"-c {name}={value}" for name, value in _SESSION.items()),
}
"""What a URL may set otherwise in its query."""


def url_of(text: str) -> URL:
    """Reads the URL of a PostgreSQL database.

    Raises ValueError for any other; the message does not repeat it, since it may hold a password.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        url = None
    if url is None or url.drivername != POSTGRES or not url.database:
        raise ValueError(f"write {POSTGRES}://USER:PASSWORD@HOST/DATABASE, or nothing for SQLite")
    return url


def name_of(place: Path | str) -> str:
    """A database as logs may name it: the file, or the URL without its password."""
    if isinstance(place, Path):
        return str(place)
    url = url_of(place)
    return url.set(query={}).render_as_string(hide_password=True)


def engine_for(place: Path | str) -> Engine:
    """An engine that has no connection yet. Raises StateError if the driver is not there."""
    return _sqlite(place) if isinstance(place, Path) else _postgres(url_of(place))


def will_write(connection: Connection, writes: bool) -> None:
    """Says whether the next transaction writes: SQLite then takes its lock at the beginning."""
    connection.info[_WRITES] = writes


def _sqlite(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # else the driver begins late, and not at all before DDL
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    how = "BEGIN IMMEDIATE" if connection.info.get(_WRITES) else "BEGIN"
    connection.exec_driver_sql(how)


def _postgres(url: URL) -> Engine:
    try:
        return create_engine(
            url.update_query_dict({**_POSTGRES_OPTIONS, **url.query}),
            poolclass=NullPool,
            isolation_level="REPEATABLE READ",
        )
    except ImportError as error:
        raise StateError(
            "the driver of PostgreSQL is not installed: pip install 'fednot[postgres]'"
        ) from error
