"""The database behind one writer thread, so that a commit never stalls the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, create_engine, event, insert, inspect, select, text
from sqlalchemy.exc import DatabaseError

from server.failpoints import around
from server.state.commits import Commit
from server.state.schema import SCHEMA_VERSION, federation, metadata

T = TypeVar("T")
PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "busy_timeout=5000",
    "secure_delete=ON",
)


class StateError(RuntimeError):
    """State on disk that this program cannot use; the message says what to do."""


class Database:
    """Runs commands one after another, each in a transaction of its own.

    A command is a function of a connection: what it writes is committed together when it returns
    and undone together when it raises.
    """

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(f"sqlite:///{path}")
        event.listen(self._engine, "connect", _configure)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state")
        try:
            self.write_now(Commit.SCHEMA, _prepare)
        except DatabaseError as error:
            raise StateError(f"{path} cannot be used: {error.orig}") from error

    async def read(self, command: Callable[[Connection], T]) -> T:
        """Runs a command that only reads, on a state that does not change meanwhile."""
        return await self._in_thread(lambda: self.read_now(command))

    async def write(self, commit: Commit, command: Callable[[Connection], T]) -> T:
        """Runs a command and commits what it wrote; `commit` names the transaction for tests."""
        return await self._in_thread(lambda: self.write_now(commit, command))

    def read_now(self, command: Callable[[Connection], T]) -> T:
        """As `read`, in this thread, before there is an event loop."""
        with self._engine.connect() as connection:
            return command(connection)

    def write_now(self, commit: Commit, command: Callable[[Connection], T]) -> T:
        """As `write`, in this thread, before there is an event loop."""
        with self._engine.connect() as connection, connection.begin() as transaction:
            result = command(connection)
            with around(f"commit.{commit}"):
                transaction.commit()
            return result

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def scrub(self) -> bool:
        """Empties the write-ahead log, so that nothing that was deleted is left in a file.

        False if another program reads the database just now, so that the log had to stay.
        """
        return await self._in_thread(self._scrub)

    def _scrub(self) -> bool:
        with self._engine.connect() as connection:
            outside = connection.execution_options(isolation_level="AUTOCOMMIT")
            return not outside.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).one()[0]

    def close(self) -> None:
        """Waits for the command that runs, and closes the file."""
        self._thread.shutdown(wait=True)
        self._engine.dispose()


def _configure(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare(connection: Connection) -> None:
    found = None
    if inspect(connection).has_table(federation.name):
        found = connection.execute(select(federation.c.schema_version)).scalar()
    if found not in (None, SCHEMA_VERSION):
        raise StateError(
            f"the state has schema {found} and this program needs {SCHEMA_VERSION}; "
            "run the version of fednot that wrote it"
        )
    metadata.create_all(connection)
    if found is None:
        connection.execute(insert(federation).values(id=1, schema_version=SCHEMA_VERSION))
