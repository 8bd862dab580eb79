"""A state of each database comes back from its backup into each, and goes on there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sqlalchemy import Connection, select
from support.postgres import Postgres
from support.state import (
    BY_TEST,
    COMPLETED,
    DORA,
    QUEUED,
    accepted,
    cancelled,
    client,
    deletion_of,
    driven,
    new_round,
    new_run,
    released,
)

from fednot.layers import layer_map
from fednot.manifest import Manifest
from fednot.tensors import flatten_module
from fednot.zoo import Mlp
from server.global_model import Draft, GlobalModel, InitialModel
from server.ledger.clock import LedgerClock
from server.ledger.file import Key
from server.ledger.opening import open_ledger
from server.ledger.requests import note_asked
from server.maintenance import fsck
from server.maintenance.backup import back_up
from server.maintenance.fsck import check
from server.maintenance.restore import LOST_ROUNDS, restore
from server.records import AuditEvent, VersionOrigin
from server.settings import StateSettings
from server.state import audit_rows, client_rows, round_rows, version_rows
from server.state.database import Database, StateError
from server.state.schema import metadata
from server.state.stores.directory import DirectoryStore

CHANGED = {"audit", "federation", "rounds"}


def settings_of(folder: Path, place: Path | str, ledger: Path) -> StateSettings:
    folder.mkdir(exist_ok=True)
    database = "" if isinstance(place, Path) else place
    return StateSettings(state_dir=folder, database=database, ledger=ledger)


@pytest.fixture
def settings(place: Path | str, tmp_path: Path) -> StateSettings:
    """A state with three clients, a round, a deletion that completed, and one that waits."""
    made = settings_of(tmp_path, place, tmp_path / "ledger.jsonl")
    asyncio.run(_begin(made))
    return made


async def _begin(settings: StateSettings) -> None:
    module = Mlp(in_features=2, hidden=(2,), num_classes=2)
    manifest = Manifest.of(module)
    flat = flatten_module(module, manifest)
    initial = InitialModel(flat, manifest, lambda: layer_map(manifest))
    database = Database(settings.database_place)
    ledger = await open_ledger(settings.ledger_path, database)
    model = await GlobalModel.open(
        database, DirectoryStore(settings.state_dir / "versions"), initial
    )

    def some_rows(c: Connection) -> None:
        for name in ("c1", "c2", "c3"):
            client_rows.record_join(c, client(name))
        round_rows.start_run(c, new_run())
        round_rows.start_round(c, new_round())
        audit_rows.append(c, AuditEvent(DORA, "test", "client/c1"), 1.5)

    await database.write(BY_TEST, some_rows)
    draft = Draft(torch.full_like(flat, 3), VersionOrigin.TRAINING, 1, 0, 1, round=1)
    await model.commit(BY_TEST, draft, lambda c, v: version_rows.set_released(c, v.number))
    for number in (1, 2):
        name, target = f"r{number}", f"c{number}"
        await database.write(BY_TEST, lambda c, n=name, t=target: asked(c, ledger, n, t))
    await database.write(BY_TEST, lambda c: driven(c, "r1", COMPLETED))
    await LedgerClock(database, ledger).look()
    ledger.close()
    database.close()


def asked(c: Connection, ledger: Any, request_id: str, client: str) -> None:
    accepted(c, request_id, client, DORA)
    note_asked(c, ledger, Key(DORA.key, request_id), 10.0)


def rows(settings: StateSettings) -> dict[str, list[Any]]:
    def command(c: Connection) -> dict[str, list[Any]]:
        tables = metadata.sorted_tables
        return {
            t.name: [tuple(row) for row in c.execute(select(t).order_by(*t.primary_key.columns))]
            for t in tables
        }

    database = Database(settings.database_place)
    found = database.read_now(command)
    database.close()
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> StateSettings:
    """An empty state of each database, with the ledger of the other."""
    target: Path | str = tmp_path / "elsewhere" / "state.sqlite3"
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        target = server.url(server.new_database())
    return settings_of(tmp_path / "elsewhere", target, tmp_path / "ledger.jsonl")


def test_a_state_comes_back_in_either_database_and_numbers_on(
    settings: StateSettings, elsewhere: StateSettings, tmp_path: Path
) -> None:
    assert check(settings) == []
    page = back_up(settings, tmp_path / "copy")
    found = restore(elsewhere, tmp_path / "copy")
    assert (found.reconciled.requeued, found.reconciled.told) == ((), ())
    before, after = rows(settings), rows(elsewhere)
    assert {n: r for n, r in before.items() if n not in CHANGED} == {
        name: found for name, found in after.items() if name not in CHANGED
    }
    assert page.rows == {name: len(found) for name, found in before.items()}
    assert after["audit"][: len(before["audit"])] == before["audit"]
    assert check(elsewhere) == []

    database = Database(elsewhere.database_place)
    database.write_now(BY_TEST, lambda c: cancelled(c, "r2", DORA))
    started = database.write_now(
        BY_TEST, lambda c: round_rows.start_round(c, new_round("c2", "c3"))
    )
    assert started.number == LOST_ROUNDS + 2
    assert database.write_now(BY_TEST, lambda c: accepted(c, "r3", "c3")).job.phase is QUEUED
    database.close()
    with pytest.raises(StateError, match="holds a federation already"):
        restore(elsewhere, tmp_path / "copy")


def test_a_deletion_after_the_backup_is_made_again_in_either_database(
    settings: StateSettings, elsewhere: StateSettings, tmp_path: Path
) -> None:
    back_up(settings, tmp_path / "copy")
    database = Database(settings.database_place)
    ledger = asyncio.run(open_ledger(settings.ledger_path, database))
    database.write_now(BY_TEST, lambda c: asked(c, ledger, "r3", "c3"))
    ledger.close()
    database.close()

    found = restore(elsewhere, tmp_path / "copy")
    assert [key.request_id for key in found.reconciled.requeued] == ["r3"]
    assert check(elsewhere) == []
    database = Database(elsewhere.database_place)
    assert database.read_now(released) == 0
    assert database.read_now(lambda c: deletion_of(c, "r3", DORA)).job.phase is QUEUED
    assert [bar.client for bar in database.read_now(client_rows.list_bars)] == ["c1", "c2", "c3"]
    database.close()


def test_work_in_hand_for_many_seconds_is_no_finding_and_damage_is(
    settings: StateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version's file is there before its row, for as long as the disk takes to commit that."""
    in_hand, damage = (
        Path(settings.versions_place) / f"{digit * 64}.safetensors" for digit in ("0", "1")
    )
    for path in (in_hand, damage):
        path.write_bytes(b"x")
    waited = [0.0]

    def slept(seconds: float) -> None:
        waited[0] += seconds
        if waited[0] > 5:
            in_hand.unlink(missing_ok=True)

    monkeypatch.setattr(fsck, "time", SimpleNamespace(sleep=slept))
    assert [damage.stem in found.message for found in check(settings)] == [True]
    damage.unlink()
    assert check(settings) == []
