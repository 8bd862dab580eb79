"""Tombstones on disk: durable, without ids, seen by other processes, and closed for good."""

from __future__ import annotations

import json
import multiprocessing
import stat
import threading
from pathlib import Path

import pytest

import fednot
from fednot.tombstones import Book, TombstoneError, Tombstones

LIMIT = 20.0


def test_no_id_is_written_and_the_file_is_the_owners(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path)
    stone = stones.bar_samples(["patient-17", "patient-18", "patient-17"], own=True)
    text = stones.path.read_text()
    assert "patient" not in text
    assert stat.S_IMODE(stones.path.stat().st_mode) == 0o600
    assert stone.count == 2
    assert stone.name == stone.sha256
    assert len(stone.sha256) == 64
    book = Tombstones(tmp_path).now()
    assert book.digest("patient-17") in book.digests
    assert book.digest("patient-19") not in book.digests


def test_two_clients_have_different_digests_of_one_id(tmp_path: Path) -> None:
    first = Tombstones(tmp_path / "a").bar_samples(["7"], own=True)
    second = Tombstones(tmp_path / "b").bar_samples(["7"], own=True)
    assert first.sha256 != second.sha256


def test_the_same_ids_again_are_the_same_request(tmp_path: Path) -> None:
    first = fednot.forget_samples(tmp_path, ["2", "1"])
    before = (tmp_path / "tombstones.json").stat().st_mtime_ns
    assert fednot.forget_samples(tmp_path, iter(["1", "2", "2"])) == first
    assert (tmp_path / "tombstones.json").stat().st_mtime_ns == before
    assert fednot.forget_samples(tmp_path, ["1"]).request_id != first.request_id
    assert first.count == 2


@pytest.mark.parametrize(("ids", "error"), [([], ValueError), ("12", TypeError), ([7], TypeError)])
def test_what_are_no_ids_bars_nothing(tmp_path: Path, ids: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        fednot.forget_samples(tmp_path, ids)  # type: ignore[arg-type]
    assert not (tmp_path / "tombstones.json").exists()


def test_an_ask_is_open_until_it_is_answered(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path)
    stone = stones.bar_samples(["1"], own=True)
    stones.bar_samples(["2"], name="by-subject", job_id="j1")
    assert [each.name for each in stones.now().unasked] == [stone.name]
    stones.answered(stone.name, "j2")
    assert Tombstones(tmp_path).now().unasked == ()
    assert stones.now().named([stone.name])[0].jobs == ("j2",)


def test_a_class_is_barred_by_name_and_lifted_by_it(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path)
    stones.bar_class(7, name="t1", job_id="j1")
    stones.bar_class(7, name="t1", job_id="j1")
    assert stones.now().labels == {7}
    assert len(stones.now().tombstones) == 1
    stones.lift("t1")
    stones.lift("t1")
    assert stones.now().labels == frozenset()


def test_a_jobs_end_closes_what_it_named_and_nothing_else(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path)
    stones.bar_samples(["1"], name="a", job_id="j1")
    stones.bar_samples(["2"], name="b", job_id="j2")
    stones.bar_samples(["3"], name="c")
    stones.belong(["c"], "j1")
    stones.close("j1")
    closed = {stone.name: stone.closed for stone in Tombstones(tmp_path).now().tombstones}
    assert closed == {"a": True, "b": False, "c": True}
    assert Tombstones(tmp_path).now().ended_jobs == {"j1"}


def _bar(folder: str, first: int) -> None:
    for index in range(first, first + 3):
        Tombstones(Path(folder)).bar_samples([str(index)], own=True)


def test_processes_that_write_at_once_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fednot.identity.locking.LOCK_SECONDS", 100.0)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_bar, args=(str(tmp_path), 3 * n)) for n in range(4)]
    seen = Tombstones(tmp_path)
    assert seen.now().digests == frozenset()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(100)
        assert writer.exitcode == 0
    book = seen.now()
    assert {book.digest(str(index)) for index in range(12)} == book.digests


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99}', "[1]", '{"format": 1, "salt": "00"}'])
def test_what_cannot_be_read_is_no_empty_book(tmp_path: Path, text: str) -> None:
    stones = Tombstones(tmp_path)
    stones.path.write_text(text)
    with pytest.raises(TombstoneError, match="restore it"):
        stones.now()
    with pytest.raises(TombstoneError):
        stones.bar_samples(["1"], own=True)
    assert stones.path.read_text() == text


def test_the_salt_stays(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path)
    stones.bar_samples(["1"], own=True)
    salt = json.loads(stones.path.read_text())["salt"]
    stones.bar_class(3, name="t")
    assert json.loads(stones.path.read_text())["salt"] == salt


class Looked(Tombstones):
    """A thread that has read pauses until another look has noted its own find, or a part of it."""

    paused: threading.Thread | None = None

    def __init__(self, folder: Path) -> None:
        self.has_read, self.go_on = threading.Event(), threading.Event()
        super().__init__(folder)

    def _read(self) -> Book:
        found = super()._read()
        if threading.current_thread() is self.paused:
            self.has_read.set()
            assert self.go_on.wait(LIMIT)
        return found

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        beside = self.paused
        if name != "paused" and beside is not None and threading.current_thread() is not beside:
            self.go_on.set()
            beside.join(LIMIT)


def test_a_look_of_another_thread_hides_no_tombstone(tmp_path: Path) -> None:
    """The slower thread has read the file before it was changed."""
    stones, other = Looked(tmp_path), Tombstones(tmp_path)
    other.bar_class(1, name="first")
    stones.paused = threading.Thread(target=stones.now)
    stones.paused.start()
    assert stones.has_read.wait(LIMIT)
    other.bar_class(2, name="second")
    stones.now()
    assert stones.now().labels == {1, 2}
