"""`fednot verify`: for a person, for a program, and for whoever was handed something else."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.receipts import golden_key, sample_receipt
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.cli.output import Format, Output
from fednot.cli.receipt_tables import _rows, keys_table, receipt_table
from fednot.receipt.payload import Judgement, KeptUpdates
from fednot.v1 import receipt_pb2

GOLDEN = Path(__file__).parent / "golden"
FILE, KEY = str(GOLDEN / "receipt.jws"), str(GOLDEN / "receipt-key.pub.pem")


def verify(*words: str) -> Any:
    return CliRunner().invoke(app, ["verify", *words], catch_exceptions=False)


def test_it_prints_what_a_person_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    told = verify(FILE, "--key", KEY)
    assert told.exit_code == 0
    lines = [" ".join(line.split()) for line in told.stdout.splitlines()]
    assert lines[0] == f"The signature verifies: key {golden_key().id}"
    assert lines[1].startswith("behaviour PASS: ")
    assert lines[2].startswith("depth PASS: ")
    assert "forgotten class 7, 4 of 4 clients confirmed" in lines
    assert "at clients 2 destroyed 1 caches, 1 had not answered" in lines
    assert lines[-1].endswith("not proven")


def test_steps_and_destroyed_updates_are_told() -> None:
    receipt = sample_receipt()
    stepped = receipt.chosen.model_copy(update={"steps": 2})
    gone = KeptUpdates(count=6, num_bytes=3000, sha256="a" * 64)
    rows = dict(_rows(receipt.model_copy(update={"attempts": (stepped,), "kept_updates": gone})))
    assert "2 steps of its method taken: succeeded" in rows["attempt 2"]
    assert rows["kept updates"] == "6 of clients destroyed, 3000 bytes"
    assert "kept updates" not in dict(_rows(receipt))


def test_a_fail_is_red_and_in_words() -> None:
    failed = Judgement(verdict="fail", reason="it\x1b[2J came back")
    table = receipt_table(sample_receipt(depth=failed))
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system="standard", width=200)
    console.print(table)
    assert "\x1b[1;31mFAIL\x1b[0m: it [2J came back" in shown.getvalue()


def test_json_is_the_payload() -> None:
    told = verify(FILE, "--key", KEY, "--format", "json")
    found = json.loads(told.stdout)
    assert found["verified"] is True
    assert found["receipt"] == json.loads((GOLDEN / "receipt.json").read_text())


def test_what_does_not_verify_is_exit_code_3_and_not_shown(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text(golden_key("other").pem)
    page = tmp_path / "page.html"
    for file, key in ((FILE, str(other)), (KEY, KEY), (FILE, FILE)):
        told = verify(file, "--key", key, "--html", str(page), "--format", "json")
        assert (told.exit_code, told.stdout) == (3, "")
        error = json.loads(told.stderr)
        assert (error["reason"], error["exit_code"]) == ("RECEIPT_INVALID", 3)
    assert not page.exists()


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    told = verify(str(tmp_path / "none"), "--key", KEY)
    assert told.exit_code == 1
    assert "none cannot be read" in told.stderr


def test_the_page_is_written_once(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert verify(FILE, "--key", KEY, "--html", str(page)).exit_code == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert verify(FILE, "--key", KEY, "--html", str(page)).exit_code == 2
    assert verify(FILE, "--key", KEY, "--html", str(page), "--force").exit_code == 0


def test_keys(capsys: pytest.CaptureFixture[str]) -> None:
    active, old = receipt_pb2.ReceiptKey(id="k2"), receipt_pb2.ReceiptKey(id="k1")
    for stamp in (active.created_at, old.created_at, old.retired_at):
        stamp.FromSeconds(86_400)
    Output(Format.TABLE).show(keys_table([active, old]))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "KEY SINCE UNTIL",
        "k2 1970-01-02 00:00:00Z signs now",
        "k1 1970-01-02 00:00:00Z 1970-01-02 00:00:00Z",
    ]
