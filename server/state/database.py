"""The database behind one writer thread, so that a commit never stalls the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import DatabaseError, DBAPIError, SQLAlchemyError

from server.failpoints import around
from server.state import faults, upgrading
from server.state.commits import Commit
from server.state.connecting import engine_for, name_of, will_write
from server.state.faults import (
    CommitUnknownError,
    StateError,
    StateLostError,
    StateUnavailableError,
)
from server.state.ownership import Ownership

__all__ = [
    "CommitUnknownError",
    "Database",
    "StateError",
    "StateLostError",
    "StateUnavailableError",
]

T = TypeVar("T")


class Database:
    """Runs commands one after another, each in a transaction of its own, on one connection.

    A command is a function of a connection: what it writes is committed together when it returns
    and undone together when it raises. It sees one state that does not change meanwhile.

    What the database cannot do now is raised as StateUnavailableError, and the next command finds
    out whether it can again, over a new connection if the last one was lost. If the connection was
    lost in the commit itself, that raises CommitUnknownError: the transaction may have taken place.
    `unsure` is true from then on, until whoever reads the state again says otherwise. Once another
    server has the state, every command raises StateLostError.
    """

    def __init__(self, place: Path | str) -> None:
        """Opens an SQLite file or a PostgreSQL database by URL, and brings its tables up to date.

        Raises StateError if it cannot be used.
        """
        self.unsure = False
        self._on_lost: Callable[[], object] = lambda: None
        self._on_failed: Callable[[str], object] = lambda operation: None
        self._engine = engine_for(place)
        self._ownership = Ownership() if self._engine.dialect.name == "postgresql" else None
        self._connection: Connection | None = None
        self._lost = ""
        self._writer = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state")
        try:
            self._thread.submit(self._open).result()
        except (DatabaseError, StateUnavailableError, StateError) as error:
            self.close()
            if isinstance(error, StateError):
                raise
            why = faults.said_by(error.__cause__ or error)
            raise StateError(f"{name_of(place)} cannot be used: {why}") from error

    async def read(self, command: Callable[[Connection], T]) -> T:
        """Runs a command that only reads."""
        return await self._in_thread(lambda: self._read(command))

    async def write(self, commit: Commit, command: Callable[[Connection], T]) -> T:
        """Runs a command and commits what it wrote; `commit` names the transaction for tests.

        Raises StateUnavailableError, and CommitUnknownError if the commit may have taken place.
        """
        return await self._in_thread(lambda: self._write(commit, command))

    def read_now(self, command: Callable[[Connection], T]) -> T:
        """As `read`, for whoever has no event loop: the caller's thread waits."""
        return self._waited_for(lambda: self._read(command))

    def write_now(self, commit: Commit, command: Callable[[Connection], T]) -> T:
        """As `write`, for whoever has no event loop: the caller's thread waits."""
        return self._waited_for(lambda: self._write(commit, command))

    def when_lost(self, call: Callable[[], object]) -> None:
        """Has a function called when another server has the state: in the writer thread, or at once
        if that is known already. It may be called twice.
        """
        self._on_lost = call
        if self._lost:
            call()

    def when_failed(self, call: Callable[[str], object]) -> None:
        """Has a function called, in the writer thread, with "read" or "write" whenever a command
        fails of the database or of a disk, and not of what it was asked.
        """
        self._on_failed = call

    def raise_if_lost(self) -> None:
        """Raises StateLostError once another server has the state."""
        if self._lost:
            raise StateLostError(self._lost)

    async def scrub(self) -> bool:
        """Empties SQLite's write-ahead log, so that nothing that was deleted is left in a file.

        False if another program reads the database just now, so that the log had to stay. Of
        PostgreSQL's files nothing is promised: its log is kept and archived as its operator says.
        """
        return await self._in_thread(self._scrub)

    def close(self) -> None:
        """Waits for the command that runs, and closes the file or the connection."""
        self._thread.submit(self._drop)
        self._thread.shutdown(wait=True)
        self._engine.dispose()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _waited_for(self, work: Callable[[], T]) -> T:
        if threading.get_ident() == self._writer:
            raise RuntimeError("a command may not run another one; it would wait for itself")
        return self._thread.submit(work).result()

    def _open(self) -> None:
        self._writer = threading.get_ident()
        with self._guarded("write") as connection:
            upgrading.bring_up_to_date(connection)
        if self._ownership is not None:
            self._write(Commit.SCHEMA, self._ownership.mark)

    def _read(self, command: Callable[[Connection], T]) -> T:
        with self._guarded("read") as connection:
            will_write(connection, False)
            with connection.begin() as transaction:
                result = command(connection)
                transaction.rollback()
            return result

    def _write(self, commit: Commit, command: Callable[[Connection], T]) -> T:
        with self._guarded("write") as connection:
            will_write(connection, True)
            with connection.begin() as transaction:
                result = command(connection)
                self._commit(commit, connection, transaction)
            return result

    def _commit(self, commit: Commit, connection: Connection, transaction: RootTransaction) -> None:
        asked = False
        try:
            with around(f"commit.{commit}"):
                asked = True
                transaction.commit()
        except Exception as error:
            refused = isinstance(error, DBAPIError) and not error.connection_invalidated
            if asked and not refused:
                self.unsure = True
                raise faults.commit_unknown(error) from error
            transaction.rollback()  # of SQLAlchemy's own, which holds it for done
            with suppress(SQLAlchemyError):  # SQLite may have left its own open
                connection.connection.rollback()
            raise

    def _scrub(self) -> bool:
        with self._guarded("write") as connection:
            if connection.dialect.name != "sqlite":
                return True
            cursor = connection.connection.cursor()  # no checkpoint is possible in a transaction
            busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            cursor.close()
            return not busy

    @contextmanager
    def _guarded(self, operation: str) -> Iterator[Connection]:
        """The connection; what goes wrong with it is told and sorted, and a lost one is let go."""
        self.raise_if_lost()
        try:
            yield self._connection or self._connected()
        except (DBAPIError, OSError) as error:
            self._on_failed(operation)
            self._let_go_if_lost()
            if (found := faults.passing(error)) is not None:
                raise found from error
            raise
        except StateUnavailableError:
            self._on_failed(operation)
            self._let_go_if_lost()
            raise
        except StateLostError as lost:
            self._on_failed(operation)
            self._lost = str(lost)
            self._drop()
            self._on_lost()
            raise

    def _connected(self) -> Connection:
        connection = self._engine.connect()
        try:
            if self._ownership is not None:
                self._ownership.lock(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _let_go_if_lost(self) -> None:
        connection = self._connection
        if connection is not None and (connection.invalidated or connection.in_transaction()):
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.invalidate()
            with suppress(SQLAlchemyError):
                connection.close()
