"""Brings a backup back into an empty state: never without the ledger, and never half-way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, func, insert, select

from fednot.manifest import Manifest
from server.ledger import opening
from server.ledger.file import Ledger, read
from server.ledger.reconciliation import Reconciled, reconcile
from server.maintenance.archive import ROWS, VERSIONS, Page, read_page
from server.maintenance.occupation import occupied
from server.maintenance.places import open_database, rows_in, schema
from server.maintenance.rows import copy_rows, go_on_numbering
from server.records import NOBODY, AuditEvent, RoundOutcome, RoundPhase
from server.settings import StateSettings
from server.state import audit_rows, kept_update_rows
from server.state.commits import Commit
from server.state.database import Database, StateError
from server.state.schema import federation, rounds
from server.state.stores import open_store
from server.state.stores.directory import DirectoryStore

LOST_ROUNDS: Final = 1_000_000
"""More than there can have been since a backup."""


@dataclass(frozen=True)
class Restored:
    """What was brought back, what the ledger had to say, and how many kept updates are lost: a
    backup has none of their files.
    """

    page: Page
    reconciled: Reconciled
    lost_updates: int


def restore(settings: StateSettings, source: Path) -> Restored:
    """Brings a backup back, with all that its ledger holds since.

    The rows are committed in one transaction with what the ledger asks for, and after the model
    files: nothing in between can be served. Raises StateError before anything is written if the
    backup is damaged, the ledger is missing or another one, the state is in use or not empty.
    """
    page = read_page(source)
    _check_schema(page)
    _check_ledger(settings.ledger_path, page)
    with occupied(settings.state_dir):
        database = open_database(settings)
        try:
            database.read_now(_check_empty)
            _copy_versions(settings, source, page)
            return Restored(page, *_restored(settings, source, database))
        finally:
            database.close()


def _check_schema(page: Page) -> None:
    if page.schema != schema():
        raise StateError(
            f"the backup has schema {page.schema} and this program reads {schema()}; restore it "
            f"with fednot {page.software}, then start the newer server on it"
        )


def _check_ledger(path: Path, page: Page) -> None:
    if not path.is_file():
        raise StateError(
            f"the ledger {path} is missing and nothing was restored: without it, a backup that is "
            "older than a deletion would bring back what was forgotten. Give the federation's own "
            "by --ledger (docs/operations.md)"
        )
    opening.check(path, read(path), page.state_id, page.ledger_head)


def _check_empty(connection: Connection) -> None:
    if connection.execute(select(federation.c.current_version)).scalar():
        raise StateError("the state holds a federation already; restore into an empty one")


def _copy_versions(settings: StateSettings, source: Path, page: Page) -> None:
    with rows_in(source / ROWS) as connection:
        row = connection.execute(select(federation)).one()
    manifest = Manifest.from_json(row.manifest)
    copies, store = DirectoryStore(source / VERSIONS), open_store(settings.versions_place)
    for sha256 in dict.fromkeys(page.versions.values()):
        store.write(copies.read(sha256, manifest), manifest, row.layers)


def _restored(settings: StateSettings, source: Path, database: Database) -> tuple[Reconciled, int]:
    ledger = Ledger.open(settings.ledger_path)

    def command(connection: Connection) -> tuple[Reconciled, int]:
        now = time.time()
        with rows_in(source / ROWS) as rows:
            copy_rows(rows, connection)
        _leave_lost_rounds_out(connection, now)
        go_on_numbering(connection)
        lost = kept_update_rows.forget_missing(connection, frozenset())
        event = AuditEvent(NOBODY, "state.restored")
        audit_rows.append(connection, event, now)
        return reconcile(connection, ledger, now), lost

    try:
        return database.write_now(Commit.STATE_RESTORED, command)
    finally:
        ledger.close()


def _leave_lost_rounds_out(connection: Connection, now: float) -> None:
    """No round gets a number that one after the backup had: a client may still hold work of that.

    Its base had the same version number and generation, perhaps, but not the same bytes.
    """
    last = connection.execute(select(func.max(rounds.c.number))).scalar() or 0
    base = connection.execute(select(federation.c.current_version)).scalar_one()
    values = {
        "number": last + LOST_ROUNDS,
        "phase": RoundPhase.TRAINING,
        "outcome": RoundOutcome.ABORTED,
        "base_version": base,
        "cohort": [],
        "missing": {},
        "metrics": {},
        "started_at": now,
        "ended_at": now,
    }
    connection.execute(insert(rounds).values(**values))
