"""Opens the ledger of a state, which must be the one that the state has seen."""

from __future__ import annotations

import logging
import time
import uuid
from pathlib import Path

from sqlalchemy import Connection, select, update

from fednot.audit_chain import Head
from server.ledger.chain import Contents
from server.ledger.file import Ledger
from server.ledger.reconciliation import Reconciled, reconcile
from server.state.commits import Commit
from server.state.database import Database, StateError
from server.state.schema import federation

log = logging.getLogger("server.ledger")


async def open_ledger(path: Path, database: Database) -> Ledger:
    """Opens the ledger of a state, begun if the state is new, and reconciles the two.

    Raises StateError if it is missing, was shortened or changed, or belongs to another federation.
    """
    state_id = await database.write(Commit.STATE_NAMED, _named)

    def command(connection: Connection) -> tuple[Ledger, Reconciled]:
        ledger = _opened(connection, path, state_id)
        try:
            return ledger, reconcile(connection, ledger, time.time())
        except BaseException:
            ledger.close()
            raise

    ledger, found = await database.write(Commit.LEDGER_RECONCILED, command)
    for sentence in found.told:
        log.warning("%s", sentence)
    return ledger


def _named(connection: Connection) -> str:
    found = connection.execute(select(federation.c.state_id)).scalar_one()
    if not found:
        found = uuid.uuid4().hex
        connection.execute(update(federation).values(state_id=found))
    return str(found)


def _opened(connection: Connection, path: Path, state_id: str) -> Ledger:
    row = connection.execute(select(federation)).one()
    if not path.exists():
        if row.ledger_hash:
            raise StateError(
                f"the ledger {path} is missing, and this state has one: give it by --ledger, or "
                "bring its newest copy back, since without it a deletion may be undone. If it is "
                "lost for good, and this state the newest there was: `fednot-server renew-ledger`"
            )
        return _begun(path, state_id)
    ledger = Ledger.open(path)
    try:
        check(path, ledger.contents, state_id, Head(row.ledger_sequence, row.ledger_hash))
    except StateError:
        ledger.close()
        raise
    return ledger


def _begun(path: Path, state_id: str) -> Ledger:
    try:
        return Ledger.begin(path, state_id)
    except OSError as error:
        raise StateError(
            f"the ledger {path} cannot be made: {error}; give --ledger a place that this user may "
            "write to"
        ) from error


def check(path: Path, contents: Contents, state_id: str, seen: Head) -> None:
    """Raises StateError unless a ledger is the one whose head a state has seen, or goes on from it.

    A state that has seen none has the hash "".
    """
    if contents.header.state_id != state_id:
        raise StateError(
            f"the ledger {path} is another federation's ({contents.header.state_id}, not "
            f"{state_id}); give this one's by --ledger, or a path where there is none if the "
            "federation is new"
        )
    if seen.hash and not contents.holds(seen):
        raise StateError(
            f"the ledger {path} is not the one that this state has seen: it was shortened or begun "
            f"anew, and has {contents.head.entries} entries where entry {seen.entries} should have "
            f"the hash {seen.hash[:12]}...; bring its newest copy back (docs/operations.md)"
        )
