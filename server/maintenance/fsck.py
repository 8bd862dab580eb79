"""Checks a whole state without writing to it, also beside a running server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from server.ledger.file import read
from server.maintenance import findings
from server.maintenance.findings import Finding
from server.maintenance.places import snapshot
from server.settings import StateSettings
from server.state import kept_update_rows
from server.state.database import StateError
from server.state.stores import open_store
from server.state.stores.directory import DirectoryStore

LOOK_AGAIN: Final = (2.0, 8.0)
"""Seconds before each further look. A commit to a slow disk is under way for as long as one."""


def check(settings: StateSettings) -> list[Finding]:
    """Everything that is wrong with a state.

    What a further look does not find again was a running server's work in hand. Raises StateError
    if the state cannot be read at all.
    """
    found = list(_look(settings))
    for pause in LOOK_AGAIN:
        if not found:
            break
        time.sleep(pause)
        again = set(_look(settings))
        found = [each for each in found if each in again]
    return found


def _look(settings: StateSettings) -> Iterator[Finding]:
    place = settings.database_place
    with snapshot(place) as connection:
        yield from findings.of_database(connection)
        yield from findings.of_negations(connection)
        yield from findings.of_audit(connection)
        yield from findings.of_receipts(connection)
    yield from _ledger(settings)
    store = open_store(settings.versions_place)
    present = store.hashes()
    with snapshot(place) as connection:
        kept = findings.kept_versions(connection)
        updates = kept_update_rows.hashes(connection)
    # Not in the transaction, which a database may end if it waits long for the next statement.
    yield from findings.of_versions(kept, store, present)
    folder = settings.kept_updates_place
    yield from findings.of_updates(updates, DirectoryStore(folder) if folder.exists() else None)


def _ledger(settings: StateSettings) -> Iterator[Finding]:
    path = settings.ledger_path
    try:
        before = read(path)
        with snapshot(settings.database_place) as connection:
            yield from findings.of_ledger(connection, before, read(path))
    except StateError as error:
        yield Finding("ledger", str(error))
