"""Backups of a state that changes meanwhile, and on disks that are full."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from support.state import BY_TEST, accepted, client

from fednot.layers import layer_map
from fednot.manifest import Manifest
from fednot.tensors import flatten_module
from fednot.zoo import Mlp
from server import failpoints
from server.global_model import Draft, GlobalModel, InitialModel
from server.ledger.opening import open_ledger
from server.maintenance import backup
from server.maintenance.archive import read_page
from server.maintenance.backup import back_up
from server.maintenance.commands import COMMANDS
from server.records import VersionOrigin
from server.settings import StateSettings
from server.state import audit_rows, client_rows, version_rows
from server.state.database import Database, StateError
from server.state.model_store import ModelStoreError
from server.state.stores.directory import DirectoryStore


@pytest.fixture
def settings(tmp_path: Path) -> StateSettings:
    """A state with versions 1, 2 and 3."""
    made = StateSettings(state_dir=tmp_path / "state")
    made.state_dir.mkdir()
    asyncio.run(_begin(made))
    return made


async def _begin(settings: StateSettings) -> None:
    module = Mlp(in_features=2, hidden=(2,), num_classes=2)
    manifest = Manifest.of(module)
    flat = flatten_module(module, manifest)
    initial = InitialModel(flat, manifest, lambda: layer_map(manifest))
    database = Database(settings.state_dir / "state.sqlite3")
    (await open_ledger(settings.ledger_path, database)).close()
    model = await GlobalModel.open(
        database, DirectoryStore(settings.state_dir / "versions"), initial
    )
    for number in (2, 3):
        other = torch.full_like(flat, number)
        draft = Draft(other, VersionOrigin.TRAINING, number - 1, 0, 1, round=number - 1)
        await model.commit(BY_TEST, draft, lambda *_: None)
    database.close()


def write(settings: StateSettings, command: Any) -> Any:
    database = Database(settings.state_dir / "state.sqlite3")
    try:
        return database.write_now(BY_TEST, command)
    finally:
        database.close()


def destroyed_meanwhile(
    settings: StateSettings, by: str, *, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Has versions destroyed, and their files deleted, after the rows were copied."""
    copied, left = backup._rows_of_a_moment, [times]

    def rows(*arguments: Any) -> Any:
        moment = copied(*arguments)
        if left[0]:
            left[0] -= 1
            store = DirectoryStore(settings.state_dir / "versions")
            write(settings, lambda c: version_rows.destroy(c, before=3, by=by, now=9.0))
            store.delete_all_but(write(settings, version_rows.kept_hashes))
        return moment

    monkeypatch.setattr(backup, "_rows_of_a_moment", rows)


@pytest.mark.parametrize("by", ["run-1", "job-123456789abc"])
def test_a_version_that_is_destroyed_meanwhile_makes_it_start_again(
    settings: StateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    destroyed_meanwhile(settings, by, times=1, monkeypatch=monkeypatch)
    page = back_up(settings, tmp_path / "copy")
    assert sorted(page.versions) == ["1", "3"]
    kept = {path.stem for path in (tmp_path / "copy" / "versions").iterdir()}
    assert kept == set(page.versions.values())
    assert read_page(tmp_path / "copy") == page


def test_what_a_deletion_destroyed_once_it_was_copied_is_not_kept_either(
    settings: StateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = backup._copy_versions

    def copy(*arguments: Any) -> None:
        copied(*arguments)
        write(settings, lambda c: version_rows.destroy(c, before=3, by="job-1", now=9.0))

    monkeypatch.setattr(backup, "_copy_versions", copy)
    assert sorted(back_up(settings, tmp_path / "copy").versions) == ["1", "3"]


def test_it_gives_up_after_a_number_of_times(
    settings: StateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "TRIES", 1)
    destroyed_meanwhile(settings, "run-1", times=1, monkeypatch=monkeypatch)
    with pytest.raises(StateError, match="destroyed while they were copied"):
        back_up(settings, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_kept_version_without_its_file_is_no_reason_to_try_again(
    settings: StateSettings, tmp_path: Path
) -> None:
    next((settings.state_dir / "versions").iterdir()).unlink()
    with pytest.raises(ModelStoreError):
        back_up(settings, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("place", ["sync.backup-rows", "sync.version", "rename.backup"])
def test_a_full_disk_leaves_nothing(
    settings: StateSettings, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failpoints.enable({failpoints.ARMED: f"before {place} =ENOSPC"})
    try:
        where = ["--state-dir", str(settings.state_dir)]
        assert COMMANDS["backup"]([str(tmp_path / "copy"), *where]) == 1
    finally:
        failpoints.enable({})
        logging.getLogger().handlers.clear()
    assert "No space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_folder_that_is_there_is_left_alone(settings: StateSettings, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(StateError, match="is there already"):
        back_up(settings, tmp_path / "copy")


def test_a_lost_ledger_is_written_anew_from_the_rows(settings: StateSettings) -> None:
    def one_deletion(connection: Any) -> None:
        client_rows.record_join(connection, client("c1"))
        accepted(connection)

    write(settings, one_deletion)
    where = ["--state-dir", str(settings.state_dir)]
    assert COMMANDS["renew-ledger"](where) == 3  # there is one
    settings.ledger_path.unlink()
    assert COMMANDS["renew-ledger"](where) == 0
    actions = write(settings, lambda c: [e.action for e in audit_rows.list_entries(c, 0, 9)])
    assert actions == ["ledger.renewed"]
    database = Database(settings.state_dir / "state.sqlite3")
    ledger = asyncio.run(open_ledger(settings.ledger_path, database))
    assert [key.request_id for key in ledger.standings] == ["r1"]
    ledger.close()
    database.close()
