"""One server at a time on a PostgreSQL database: a lock of its session, and a mark in the state."""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

from sqlalchemy import Connection, select, text, update

from server.state.faults import StateError, StateLostError, unavailable
from server.state.schema import federation

LOCK_KEY: Final = 0x666E6F74
"""Of `pg_try_advisory_lock`; such a lock is one database's and ends with its session."""

START_SECONDS: Final = 10.0
"""For how long a start tries: the session of a server that was killed lives on for a moment."""
_TRY_SECONDS: Final = 0.2

_SESSION: Final = text(
    "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
)
_HOLDERS: Final = text(
    "SELECT activity.pid, activity.backend_start FROM pg_locks AS held"
    " JOIN pg_stat_activity AS activity ON activity.pid = held.pid"
    " WHERE held.locktype = 'advisory' AND held.granted AND held.objid = :key"
    " AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class Ownership:
    """What this server knows of its own lock, over all the connections that it had.

    A connection that was lost may live on in PostgreSQL for a while with the lock; it is ended
    then. If another server had the state in between, what this one has in memory is no longer true:
    the mark that each leaves tells.
    """

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self._held = False
        self._session: tuple[Any, ...] | None = None

    def lock(self, connection: Connection) -> None:
        """Takes the lock in a new connection.

        Raises StateError if another server still has it START_SECONDS after the start,
        StateLostError if one has it later, and StateUnavailableError as long as this server's own
        old connection has it.
        """
        until = time.monotonic() + (0.0 if self._held else START_SECONDS)
        while not self._is_taken(connection, last=time.monotonic() >= until):
            time.sleep(_TRY_SECONDS)
        if self._held:
            self._check_mark(connection)

    def mark(self, connection: Connection) -> None:
        """Marks the state as this server's, in the transaction of the caller."""
        connection.execute(update(federation).values(opened_by=self._mark))
        self._held = True

    def _is_taken(self, connection: Connection, *, last: bool) -> bool:
        """Tries once; raises as `lock` does if it was the last time."""
        with connection.begin():
            taken = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY})
            if taken:
                self._session = tuple(connection.execute(_SESSION).one())
            elif last:
                self._explain(connection)
        return bool(taken)

    def _explain(self, connection: Connection) -> None:
        holders = [tuple(row) for row in connection.execute(_HOLDERS, {"key": LOCK_KEY})]
        if self._session in holders:
            connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": self._session[0]})
            raise unavailable("the connection before is being ended")
        if not holders:
            raise unavailable("whoever had its lock has just given it back")
        if self._held:
            raise StateLostError("another server runs on this database now; this one ends")
        raise StateError("another server runs on this database; stop it first")

    def _check_mark(self, connection: Connection) -> None:
        with connection.begin():
            found = connection.scalar(select(federation.c.opened_by))
        if found != self._mark:
            raise StateLostError("another server has used this database meanwhile; this one ends")
