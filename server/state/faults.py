"""What goes wrong with a state, sorted: what passes, what ends the server, and what is a bug."""

from __future__ import annotations

import errno
import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from fednot.errors import FednotError, Reason

RETRY_AFTER: Final = 2.0

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT}
_SQLITE_PASSING: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
}
_POSTGRES_FULL: Final = "53100"
_POSTGRES_PASSING: Final = ("08", "40", "53", "55P03", "57", "58", "25006")
"""Beginnings of SQLSTATE: lost connections, conflicts, too few resources, a lock not to be had,
a stop by the operator or a timeout, the system below, a replica that takes no writes."""


class StateError(RuntimeError):
    """State on disk that this program cannot use; the message says what to do."""


class StateLostError(StateError):
    """Another server has the state now, so that this one must end."""


class StateUnavailableError(FednotError):
    """The state cannot be read or written now; the same command may succeed later.

    Its reason is STATE_UNAVAILABLE, or NO_SPACE if the disk is full. Nothing was written.
    """


class CommitUnknownError(StateUnavailableError):
    """The connection ended while a transaction was committed: it may have taken place or not.

    Whoever keeps in memory what is in the state reads it again before going on.
    """


def passing(error: BaseException) -> StateUnavailableError | None:
    """The error as one that may be retried; None for one that a retry does not mend."""
    if isinstance(error, OSError):
        return _no_space(error) if error.errno in _NO_ROOM else None
    if not isinstance(error, DBAPIError):
        return None
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        full, passes = code == sqlite3.SQLITE_FULL, code in _SQLITE_PASSING
    else:
        state = getattr(error.orig, "sqlstate", None) or ""
        full = state == _POSTGRES_FULL
        unreached = not state and isinstance(error, OperationalError | InterfaceError)
        passes = unreached or error.connection_invalidated or state.startswith(_POSTGRES_PASSING)
    if full:
        return _no_space(error)
    return unavailable(said_by(error)) if passes else None


def unavailable(why: str) -> StateUnavailableError:
    """The error that says why the state cannot be reached."""
    return StateUnavailableError(
        Reason.STATE_UNAVAILABLE,
        f"the server's state cannot be used now: {why}",
        retry_after=RETRY_AFTER,
    )


def commit_unknown(error: BaseException) -> CommitUnknownError:
    """The error of a commit that was asked for and whose answer never came."""
    return CommitUnknownError(
        Reason.STATE_UNAVAILABLE,
        f"the state was lost while it was written, which may have succeeded: {said_by(error)}",
        retry_after=RETRY_AFTER,
    )


def said_by(error: BaseException) -> str:
    """The first line of what a driver said; no statement and no value of one."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return str(original).strip().partition("\n")[0] or type(original).__name__


def _no_space(error: BaseException) -> StateUnavailableError:
    return StateUnavailableError(
        Reason.NO_SPACE,
        f"no room is left for the server's state: {said_by(error)}",
        retry_after=RETRY_AFTER,
    )
