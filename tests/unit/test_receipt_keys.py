"""The key that signs receipts: for its owner alone, replaced whole, whatever ends the server."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fednot.receipt import SigningKey
from server.receipts.desk import ReceiptDesk
from server.receipts.key_files import KEY_FILE, NEXT_FILE
from server.records import Caller
from server.state import audit_rows, durable, receipt_rows
from server.state.database import Database, StateError

OLGA = Caller()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "state.sqlite3")
    yield found
    found.close()


def actions(database: Database) -> list[str]:
    return [e.action for e in database.read_now(lambda c: audit_rows.list_entries(c, 0, 99))]


def private(folder: Path) -> SigningKey:
    return SigningKey.from_private_pem((folder / KEY_FILE).read_bytes())


async def test_the_first_start_makes_a_key_and_the_next_takes_it_over(
    database: Database, tmp_path: Path
) -> None:
    await ReceiptDesk.open(database, tmp_path)
    first = private(tmp_path)
    await ReceiptDesk.open(database, tmp_path)
    (key,) = database.read_now(receipt_rows.list_keys)
    assert (key.id, key.pem, key.retired_at) == (first.id, first.pem, None)
    assert private(tmp_path).id == first.id
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert not (tmp_path / NEXT_FILE).exists()
    assert actions(database) == ["receipt-key.made"]


async def test_a_key_that_others_could_read_is_closed(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await ReceiptDesk.open(database, tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    await ReceiptDesk.open(database, tmp_path)
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert "could be read by others" in caplog.text


async def test_a_rotation_keeps_the_old_public_key_and_overwrites_the_private_one(
    database: Database, tmp_path: Path
) -> None:
    desk = await ReceiptDesk.open(database, tmp_path)
    before = private(tmp_path)
    with (tmp_path / KEY_FILE).open("rb") as still_open:
        made = await desk.rotate(OLGA)
        assert set(still_open.read()) == {0}
    after, old = database.read_now(receipt_rows.list_keys)
    assert (after.id, after.retired_at) == (made.id, None)
    assert (old.id, old.pem) == (before.id, before.pem)
    assert old.retired_at is not None
    assert private(tmp_path).id == made.id
    assert actions(database)[-1] == "ReceiptService.RotateReceiptKey"


@pytest.mark.parametrize("harm", ["lost", "torn", "another"])
async def test_a_lost_key_gives_way_to_a_new_one(
    database: Database, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    await ReceiptDesk.open(database, tmp_path)
    path, before = tmp_path / KEY_FILE, private(tmp_path)
    if harm == "lost":
        path.unlink()
    else:
        path.write_bytes(b"" if harm == "torn" else SigningKey.generate().private_pem())
    await ReceiptDesk.open(database, tmp_path)
    new, old = database.read_now(receipt_rows.list_keys)
    assert (old.id, old.retired_at is None) == (before.id, False)
    assert new.id == private(tmp_path).id
    assert f"the private key of receipts {before.id} is gone" in caplog.text
    assert actions(database) == ["receipt-key.made"] * 2


async def test_a_key_that_cannot_be_read_stops_the_start(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / KEY_FILE).mkdir()
    with pytest.raises(StateError, match="key of receipts"):
        await ReceiptDesk.open(database, tmp_path)


class CrashError(Exception):
    """Stands in for the end of the process."""


PLACES = [
    ("append", "receipt-key"),
    ("sync", "receipt-key"),
    ("overwrite", "old-receipt-key"),
    ("sync", "old-receipt-key"),
    ("rename", "receipt-key"),
    ("sync_directory", "receipt-key-directory"),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("function", "name"), PLACES)
async def test_a_rotation_that_is_cut_off_is_ended_or_undone_by_the_next_start(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    name: str,
    after: bool,
) -> None:
    desk = await ReceiptDesk.open(database, tmp_path)
    monkeypatch.setattr(durable, function, crashing(getattr(durable, function), name, after))
    with pytest.raises(CrashError):
        await desk.rotate(OLGA)
    monkeypatch.undo()
    await ReceiptDesk.open(database, tmp_path)
    active = database.read_now(receipt_rows.active_key)
    assert active is not None
    assert private(tmp_path).id == active.id
    assert not (tmp_path / NEXT_FILE).exists()
    rotated = "ReceiptService.RotateReceiptKey" in actions(database)
    assert len(database.read_now(receipt_rows.list_keys)) == 1 + rotated
    assert actions(database).count("receipt-key.made") == 1


def crashing(real: Callable[..., None], name: str, after: bool) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        if arguments[-1] == name and not after:
            raise CrashError
        real(*arguments)
        if arguments[-1] == name:
            raise CrashError

    return call
