"""Begins a state's ledger anew when the old one is lost for good and the state is not."""

from __future__ import annotations

import time

from sqlalchemy import Connection, update

from server.maintenance.occupation import occupied
from server.maintenance.places import open_database
from server.records import NOBODY, AuditEvent
from server.settings import StateSettings
from server.state import audit_rows
from server.state.commits import Commit
from server.state.database import StateError
from server.state.schema import federation


def forget_lost_ledger(settings: StateSettings) -> None:
    """Has the next start of the server write the ledger anew, from the rows, and notes that.

    Only who knows that the state is the newest that there was may ask for this: a deletion that
    the lost ledger held and the state does not is lost with it. Raises StateError while there is a
    ledger, or a server that runs.
    """
    if settings.ledger_path.exists():
        raise StateError(f"there is a ledger in {settings.ledger_path}; move it away first")
    with occupied(settings.state_dir):
        database = open_database(settings)
        try:
            database.write_now(Commit.LEDGER_RENEWED, _forget)
        finally:
            database.close()


def _forget(connection: Connection) -> None:
    connection.execute(update(federation).values(ledger_sequence=0, ledger_hash=""))
    audit_rows.append(connection, AuditEvent(NOBODY, "ledger.renewed"), time.time())
