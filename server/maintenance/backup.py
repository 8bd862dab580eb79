"""Copies a state while its server runs. The ledger stays where it is, by design."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Row, select

import fednot
from fednot.manifest import Manifest
from server.maintenance.archive import ROWS, VERSIONS, Page, sha256_of_file, write_page
from server.maintenance.places import schema, snapshot
from server.maintenance.rows import write_file
from server.settings import StateSettings
from server.state import durable, version_rows
from server.state.database import StateError
from server.state.model_store import ModelStore, ModelStoreError
from server.state.schema import federation, versions
from server.state.stores import open_store
from server.state.stores.directory import DirectoryStore

log = logging.getLogger("server.backup")

TRIES: Final = 10


class _GoneError(Exception):
    """A version was destroyed while it was copied."""


@dataclass(frozen=True)
class _Moment:
    """The state at the moment that a backup is of."""

    federation: Row[Any]
    counts: Mapping[str, int]
    kept: Mapping[int, str]


def back_up(settings: StateSettings, target: Path) -> Page:
    """Copies the rows of one moment and the model files that they keep into a new folder.

    The folder gets its name once everything is in it, on the disk and checked. No lock is taken.
    Raises StateError if the state cannot be read or the folder is there, OSError if it cannot be
    written; nothing is left of it then.
    """
    if target.exists() or target.is_symlink():
        raise StateError(f"{target} is there already; name a folder that is to be made")
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(mode=0o700, parents=True)
        page = _fill(settings, partial)
        durable.rename(partial, target, "backup")
        durable.sync_directory(target.parent, "backup-parent")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return page


def _fill(settings: StateSettings, folder: Path) -> Page:
    place, store = settings.database_place, open_store(settings.versions_place)
    copies = DirectoryStore(folder / VERSIONS)
    for _ in range(TRIES):
        moment = _rows_of_a_moment(place, folder / ROWS)
        try:
            _copy_versions(place, moment, store, copies)
            _check_not_forgotten_meanwhile(place, moment)
        except _GoneError as gone:
            log.info("%s; starting again from the state as it is now", gone)
            continue
        page = _page(moment, folder)
        write_page(folder, page)
        durable.sync_directory(folder, "backup")
        return page
    raise StateError(
        f"versions were destroyed while they were copied, {TRIES} times in a row; "
        "try again when the server trains less, or with a larger --keep-versions"
    )


def _rows_of_a_moment(place: Path | str, path: Path) -> _Moment:
    path.unlink(missing_ok=True)
    with snapshot(place) as connection:
        row = connection.execute(select(federation)).one()
        if not row.current_version:
            raise StateError("the state holds no federation yet; there is nothing to back up")
        counts = write_file(connection, path)
        kept = _kept(connection)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        durable.sync(descriptor, "backup-rows")
    finally:
        os.close(descriptor)
    return _Moment(row, counts, kept)


def _kept(connection: Connection) -> dict[int, str]:
    query = select(versions.c.number, versions.c.sha256).where(versions.c.destroyed_at.is_(None))
    found = connection.execute(query.order_by(versions.c.number))
    return {row.number: row.sha256 for row in found}


def _copy_versions(
    place: Path | str, moment: _Moment, store: ModelStore, copies: ModelStore
) -> None:
    """Copies what is not there yet, oldest first, for that is what is destroyed first.

    Raises ModelStoreError for a version that the state keeps and the store does not hold as it was.
    """
    manifest = Manifest.from_json(moment.federation.manifest)
    copies.delete_all_but(frozenset(moment.kept.values()))
    for number, sha256 in moment.kept.items():
        try:
            copies.verify(sha256)
            continue
        except ModelStoreError:
            log.info("copying version %d", number)
        try:
            block = store.read(sha256, manifest)
        except ModelStoreError as error:
            with snapshot(place) as connection:
                if sha256 in version_rows.kept_hashes(connection):
                    raise
            raise _GoneError(f"version {number} was destroyed meanwhile") from error
        copies.write(block, manifest, moment.federation.layers)


def _check_not_forgotten_meanwhile(place: Path | str, moment: _Moment) -> None:
    """A backup keeps nothing that a deletion had destroyed before the backup was complete."""
    with snapshot(place) as connection:
        by_jobs = select(versions.c.number).where(versions.c.destroyed_by.startswith("job-"))
        destroyed = set(connection.execute(by_jobs).scalars())
    if doomed := destroyed & set(moment.kept):
        raise _GoneError(f"a deletion destroyed the versions {sorted(doomed)} meanwhile")


def _page(moment: _Moment, folder: Path) -> Page:
    row = moment.federation
    return Page(
        software=fednot.__version__,
        schema=schema(),
        state_id=row.state_id,
        made_at=time.time(),
        ledger_sequence=row.ledger_sequence,
        ledger_hash=row.ledger_hash,
        current_version=row.current_version,
        released_version=row.released_version,
        rows=moment.counts,
        rows_sha256=sha256_of_file(folder / ROWS),
        versions={str(number): sha256 for number, sha256 in moment.kept.items()},
    )
