"""The ledger's file: what it refuses, what a crash leaves, and in what order it is written."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from support.state import BY_TEST

from server import failpoints
from server.ledger.chain import Event, Note, parse
from server.ledger.file import Key, Ledger, read
from server.ledger.opening import open_ledger
from server.state.database import Database, StateError, StateUnavailableError
from server.state.schema import federation


def note(event: Event = Event.ASKED, request_id: str = "r1", **more: Any) -> Note:
    return Note(event, {"caller": "officer/dora", "request_id": request_id, "client": "c1"} | more)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "state.sqlite3")
    yield made
    made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere" / "ledger.jsonl"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    made = Ledger.begin(path, "f1")
    yield made
    made.close()


def append(database: Database, ledger: Ledger, *notes: Note, now: float = 5.5) -> None:
    database.write_now(BY_TEST, lambda c: ledger.append(c, notes, now))


def written(path: Path, database: Database, count: int = 3) -> bytes:
    ledger = Ledger.begin(path, "f1")
    for number in range(1, count + 1):
        append(database, ledger, note(request_id=f"r{number}"))
    ledger.close()
    return path.read_bytes()


class TestFile:
    def test_a_new_ledger_is_its_owners_alone_and_holds_its_federation(
        self, ledger: Ledger, path: Path
    ) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        contents = read(path)
        assert (contents.header.state_id, contents.entries) == ("f1", [])
        assert [each.name for each in path.parent.iterdir()] == ["ledger.jsonl"]

    def test_entries_are_read_back_with_where_each_request_stands(
        self, ledger: Ledger, path: Path, database: Database
    ) -> None:
        append(database, ledger, note(), note(request_id="r2", weight=0.1))
        append(database, ledger, note(Event.COMPLETED), note(Event.LIFTED, "r2", by="cancelled"))
        found = {key.request_id: each for key, each in ledger.standings.items()}
        assert (found["r1"].completed, found["r1"].lifted) == (True, "")
        assert (found["r2"].completed, found["r2"].lifted) == (False, "cancelled")
        ledger.close()
        again = Ledger.open(path)
        assert again.standings == ledger.standings
        assert again.head == ledger.head
        append(database, again, note(request_id="r2"))
        assert again.standings[Key("officer/dora", "r2")].lifted == ""
        assert len(read(path).entries) == 5

    def test_the_database_gets_the_head_in_the_same_transaction(
        self, ledger: Ledger, database: Database
    ) -> None:
        append(database, ledger, note(), note())
        row = database.read_now(lambda c: c.execute(select(federation)).one())
        assert (row.ledger_sequence, row.ledger_hash) == (2, ledger.head.hash)

    @pytest.mark.parametrize("cut", [1, 20])
    def test_a_torn_last_line_is_cut_off_and_written_over(
        self, path: Path, database: Database, cut: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        path.write_bytes(written(path, database)[:-cut])
        ledger = Ledger.open(path)
        assert "torn last line" in caplog.text
        assert [key.request_id for key in ledger.standings] == ["r1", "r2"]
        append(database, ledger, note(request_id="r4"))
        assert [e.payload["request_id"] for e in read(path).entries] == ["r1", "r2", "r4"]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda lines: [lines[0], *lines[2:]], "entry 2 stands where entry 1 belongs"),
            (
                lambda lines: [lines[0], lines[1].replace(b'"c1"', b'"c9"'), *lines[2:]],
                "entry 1 was",
            ),
            (lambda lines: [lines[0], b"garbage\n", *lines[1:]], "entry 1 cannot be read"),
            (lambda lines: [lines[0].replace(b"f1", b"f2"), *lines[1:]], "entry 1 does not follow"),
            (lambda lines: lines[1:], "not the header"),
            (lambda lines: [b"\0" * 40], "no header"),
            (lambda lines: [lines[0].replace(b'": 1', b'": 9'), *lines[1:]], "format 9"),
        ],
    )
    def test_anything_else_that_was_changed_is_refused(
        self, path: Path, database: Database, change: Any, said: str
    ) -> None:
        path.write_bytes(b"".join(change(written(path, database).splitlines(keepends=True))))
        with pytest.raises(StateError, match=said):
            Ledger.open(path)

    def test_two_processes_never_write_one_ledger(self, ledger: Ledger, path: Path) -> None:
        with pytest.raises(StateError, match="another process uses the ledger"):
            Ledger.open(path)
        assert read(path).header.state_id == "f1"  # while whoever only looks may

    def test_what_a_failed_append_has_left_is_not_in_the_way_of_the_next(
        self, ledger: Ledger, path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with path.open("ab") as other:
            other.write(b'{"sequence": 1, "at": 5.')
        append(database, ledger, note(request_id="r2"))
        assert [each.payload["request_id"] for each in read(path).entries] == ["r2"]

    def test_an_entry_is_synced_before_its_transaction_is_committed(
        self, path: Path, database: Database, tmp_path: Path
    ) -> None:
        trace = tmp_path / "trace"
        failpoints.enable({failpoints.TRACE: str(trace)})
        try:
            ledger = Ledger.begin(path, "f1")
            append(database, ledger, note())
        finally:
            failpoints.enable({})
        ledger.close()
        assert [place for place in trace.read_text().split("\n") if place.startswith("after")] == [
            "after append.ledger-header",
            "after sync.ledger-header",
            "after rename.ledger",
            "after sync.ledger-directory",
            "after append.ledger",
            "after sync.ledger",
            f"after commit.{BY_TEST}",
        ]

    def test_an_entry_that_cannot_be_synced_undoes_the_transaction(
        self, ledger: Ledger, path: Path, database: Database
    ) -> None:
        failpoints.enable({failpoints.ARMED: "before sync.ledger =ENOSPC"})
        try:
            with pytest.raises(StateUnavailableError, match="no room"):
                append(database, ledger, note())
        finally:
            failpoints.enable({})
        assert ledger.standings == {}
        row = database.read_now(lambda c: c.execute(select(federation)).one())
        assert row.ledger_sequence == 0
        append(database, ledger, note(request_id="r2"))
        assert [each.payload["request_id"] for each in read(path).entries] == ["r2"]


async def test_a_place_that_cannot_hold_a_ledger_is_named(
    tmp_path: Path, database: Database
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StateError, match=r"file/ledger\.jsonl cannot be made: .*give --ledger"):
        await open_ledger(tmp_path / "file" / "ledger.jsonl", database)


def test_a_ledger_knows_the_heads_that_it_went_through(path: Path, database: Database) -> None:
    whole = parse(written(path, database))
    shorter = parse(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert whole.holds(shorter.head)
    assert whole.holds(whole.header.head)
    assert not shorter.holds(whole.head)
    path.unlink()
    assert not parse(written(path, database)).holds(whole.header.head)
