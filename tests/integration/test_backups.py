"""Backup, restore and fsck of real federations, whose servers run or are killed meanwhile."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.federation import CALL, LocalFederation, eventually, refusal, run_server

from fednot.errors import Reason
from fednot.v1 import deletion_pb2, operator_pb2
from server.failpoints import ARMED

ROWS = "state.sqlite3"
DONE, FINDINGS, USAGE, STATE = 0, 1, 2, 3
CHANGED_BY_A_RESTORE = {"audit", "federation", "rounds", "alembic_version"}
UNLEARN = {"full_budget": True, "max_rounds": 2, "min_rounds": 2}


class Stored(LocalFederation):
    """A federation whose ledger is on a disk of its own."""

    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "elsewhere" / "ledger.jsonl"
        flags = ("--ledger", str(self.ledger), "--keep-versions", "25")
        super().__init__(folder, server_flags=flags)

    def lose(self) -> None:
        """Ends the server for good; its state is out of reach, and an empty one takes its place."""
        self.kill("server")
        self.state = self.folder / "restored"

    def run(self, *command: str) -> tuple[int, str]:
        """Runs a command on the state; its exit code, and what it said."""
        where = ("--state-dir", str(self.state), "--ledger", str(self.ledger))
        ended = run_server(*command, *where)
        return ended.returncode, ended.stdout + ended.stderr

    def backed_up(self, name: str) -> Path:
        target = self.folder / name
        code, said = self.run("backup", str(target))
        assert code == DONE, said
        return target

    def await_clean(self) -> None:
        code, said = self.run("fsck")
        assert (code, said.strip().splitlines()[-1]) == (DONE, "clean"), said


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Stored]:
    with Stored(tmp_path) as made:
        made.start_server("--min-clients", "2")
        for index in (1, 2, 3):
            made.start_client(index)
        made.await_connected(3)
        yield made


def tables(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    database = sqlite3.connect(path)
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    found = {name: sorted(database.execute(f"SELECT * FROM {name}"), key=repr) for (name,) in names}
    database.close()
    return found


def released_in(path: Path) -> int:
    database = sqlite3.connect(path)
    found = database.execute("SELECT released_version FROM federation").fetchone()[0]
    database.close()
    return int(found)


def unchanged(found: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    return {name: rows for name, rows in found.items() if name not in CHANGED_BY_A_RESTORE}


def test_a_backup_of_a_training_server_comes_back_elsewhere_as_it_was(
    federation: Stored, tmp_path: Path
) -> None:
    federation.train(1)
    federation.start_training(1000)
    eventually("training goes on", lambda: federation.status().current.number > 3)
    backup = federation.backed_up("backup")
    assert federation.status().run.state == operator_pb2.RUN_STATE_ACTIVE
    federation.await_clean()
    federation.lose()

    page = json.loads((backup / "backup.json").read_text())
    assert not list(tmp_path.glob("*.partial"))
    assert not list(backup.rglob("*ledger*"))
    code, said = federation.run("restore", str(backup), "--format", "json")
    assert code == DONE, said
    assert json.loads(said.splitlines()[-1])["requeued"] == []
    federation.await_clean()
    before, after = (tables(backup / ROWS), tables(federation.state / ROWS))
    assert unchanged(before) == unchanged(after)
    assert len(after["audit"]) == len(before["audit"]) + 1
    assert set(before["rounds"]) < set(after["rounds"])
    kept = {path.stem for path in (federation.state / "versions").iterdir()}
    assert kept == set(page["versions"].values())

    assert federation.run("restore", str(backup))[0] == STATE  # holds a federation already
    federation.start_server("--min-clients", "2")
    found = federation.status()
    assert found.current.number >= page["current_version"]
    assert found.released.number >= page["released_version"]


def test_a_restore_of_a_backup_from_before_a_deletion_forgets_again(
    federation: Stored, tmp_path: Path
) -> None:
    federation.train(2)
    backup = federation.backed_up("backup")
    first = federation.unlearn("c1", "forget-c1", **UNLEARN)
    assert federation.await_job("forget-c1").job.phase == deletion_pb2.JOB_PHASE_COMPLETED
    eventually("the end is noted", lambda: '"completed"' in federation.ledger.read_text())
    federation.lose()

    code, said = federation.run("restore", str(backup))
    assert (code, "queued again" in said) == (DONE, True), said
    assert released_in(federation.state / ROWS) == 0
    federation.await_clean()

    federation.start_server("--min-clients", "2")
    again = federation.unlearn("c1", "forget-c1", **UNLEARN)
    assert (again.job.id, again.scope.client) == (first.job.id, "c1")
    done = federation.await_job("forget-c1")
    assert done.job.phase == deletion_pb2.JOB_PHASE_COMPLETED
    assert federation.status().released.number == federation.status().current.number
    federation.train(1)
    assert all("c1" not in each.cohort for each in federation.rounds() if each.number > 2)
    federation.await_clean()


def test_a_restore_without_the_ledger_refuses_and_writes_nothing(federation: Stored) -> None:
    federation.train(1)
    federation.unlearn("c1", "forget-c1", **UNLEARN)
    backup = federation.backed_up("backup")
    federation.lose()
    header, *_ = federation.ledger.read_bytes().splitlines(keepends=True)
    anothers = b'{"fednot_ledger": 1, "state_id": "x", "begun_at": 1.5}\n'
    for content, why in ((None, "missing"), (header, "shortened"), (anothers, "another")):
        federation.ledger.unlink()
        if content is not None:
            federation.ledger.write_bytes(content)
        code, said = federation.run("restore", str(backup))
        assert (code, why in said) == (STATE, True), said
        assert not federation.state.exists()
        federation.ledger.touch()


def test_a_kill_between_the_ledger_and_the_commit_loses_no_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stored(tmp_path) as federation:
        monkeypatch.setenv(ARMED, "before commit.deletion-accepted")
        federation.start_server("--min-clients", "2")
        monkeypatch.delenv(ARMED)
        for index in (1, 2, 3):
            federation.start_client(index)
        federation.await_connected(3)
        federation.train(1)
        with pytest.raises(Exception, match=r"UNAVAILABLE|Socket closed"):
            federation.unlearn("c1", "forget-c1", **UNLEARN)
        federation.kill("server")

        federation.start_server("--min-clients", "2")
        assert federation.client_info("c1").state == operator_pb2.CLIENT_STATE_BARRED
        found = federation.deletion("forget-c1")
        again = federation.unlearn("c1", "forget-c1", **UNLEARN)
        assert again.job.id == found.job.id
        assert federation.await_job("forget-c1").job.phase == deletion_pb2.JOB_PHASE_COMPLETED
        federation.await_clean()


def test_a_stop_notes_in_the_ledger_what_has_just_ended(federation: Stored) -> None:
    federation.train(1)
    federation.unlearn("c1", "forget-c1", **UNLEARN)
    federation.await_job("forget-c1")
    request = operator_pb2.ReadmitClientRequest(client="c1")
    federation.operator.ReadmitClient(request, timeout=CALL)
    assert federation.kill("server", signal.SIGTERM) == 0
    assert '"readmitted"' in federation.ledger.read_text()
    federation.await_clean()


def test_what_is_damaged_is_found(federation: Stored, tmp_path: Path) -> None:
    federation.train(2)
    federation.unlearn("c1", "forget-c1", **UNLEARN)
    federation.await_job("forget-c1")
    federation.kill("server")
    federation.await_clean()

    file = next((federation.state / "versions").iterdir())
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (federation.state / "versions" / f"{'0' * 64}.safetensors").write_bytes(b"x")
    database = sqlite3.connect(federation.state / ROWS)
    database.execute("UPDATE attempts SET job_id = 'job-gone'")
    database.execute("UPDATE tombstones SET lifted_at = 1.0")
    database.execute("DROP TRIGGER audit_is_not_changed")
    database.execute("UPDATE audit SET reason = 'x' WHERE sequence = 1")
    database.execute("""UPDATE versions SET negated_tensors = '["a", "a"]' WHERE number = 2""")
    database.commit()
    database.close()

    code, said = federation.run("fsck", "--format", "json")
    found = json.loads(said)["findings"]
    assert code == FINDINGS
    assert {each["check"] for each in found} == {
        *("versions", "foreign keys", "audit", "ledger", "negations")
    }
    assert sum(each["check"] == "versions" for each in found) == 2

    code, said = federation.run("backup", str(tmp_path / "damaged"))
    assert (code, file.stem in said) == (STATE, True), said
    assert not list(tmp_path.glob("damaged*"))


def test_a_command_says_what_it_lacks(tmp_path: Path) -> None:
    for command, code, said in (
        (("fsck", "--state-dir", str(tmp_path / "none")), STATE, "there is no state in"),
        (("backup",), USAGE, "TARGET_DIR"),
        (("restore", str(tmp_path)), STATE, "is not a backup"),
        (("fsck", "--state-dri", "x"), USAGE, "did you mean state-dir"),
    ):
        ended = run_server(*command)
        assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr
    assert "backup TARGET_DIR" in run_server("--help").stdout


def test_kept_updates_are_in_no_backup_and_a_restored_state_does_without(
    tmp_path: Path,
) -> None:
    with Stored(tmp_path) as federation:
        federation.start_server("--min-clients", "2", "--keep-updates", "1")
        for index in (1, 2, 3):
            federation.start_client(index)
        federation.await_connected(3)
        federation.train(2)
        assert federation.status().kept_updates.count == 6
        eventually("it is measured", lambda: federation.metrics()["fednot_kept_updates"] == 6)
        federation.await_clean()
        assert not list(federation.backed_up("backup").rglob("updates"))
        update, *_ = sorted((federation.state / "updates").iterdir())
        content = update.read_bytes()
        update.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        code, said = federation.run("fsck")
        assert (code, f"{update} does not hold what its name says" in said) == (FINDINGS, True)
        federation.lose()

        code, said = federation.run("restore", str(tmp_path / "backup"))
        assert (code, "6 kept updates are lost" in said) == (DONE, True), said
        federation.await_clean()
        federation.start_server("--min-clients", "2", "--keep-updates", "1")
        assert not federation.status().HasField("kept_updates")
        told = refusal(lambda: federation.unlearn("c1", "r1", method="fed-eraser", **UNLEARN))
        assert told.reason is Reason.METHOD_NEEDS
        federation.await_connected(3)
        federation.unlearn("c1", "r2", method="retrain", **UNLEARN)
        assert federation.await_job("r2").job.phase == deletion_pb2.JOB_PHASE_COMPLETED
        assert federation.status().kept_updates.count == 2 * 2, "a new lineage, kept from its start"
        federation.await_clean()
