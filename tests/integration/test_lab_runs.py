"""Studies of a few seconds, run as users run them: to their end, killed, and with a bad cell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.lab_study import STUDY, study

ROOT = Path(__file__).parents[2]
RETRAIN, NEGATION = "digits-cnn_digits-iid-retrain-s0", "digits-cnn_digits-iid-not-s0"
SECONDS = 250
pytestmark = [pytest.mark.long, pytest.mark.timeout(2 * SECONDS)]


def command(path: Path, out: Path, *more: str) -> list[str]:
    told = [sys.executable, "-m", "lab", "run", str(path), "--out", str(out), "--workers", "1"]
    return [*told, *more]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def ran(path: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(path, out, *more),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment(),
        check=False,
    )


def result(out: Path, cell: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "cells" / f"{cell}.json").read_text())
    return found


def mark_of(path: Path) -> tuple[int, int]:
    """What changes when a file is written again."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path, out = study(tmp_path), tmp_path / "out"
    first = out / "cells" / f"{RETRAIN}.json"
    with subprocess.Popen(
        command(path, out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment()
    ) as running:
        until = time.monotonic() + SECONDS
        while not first.exists():
            assert time.monotonic() < until
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
    base = out / "bases" / "digits-cnn_digits-iid-s0" / "base.json"
    written = [mark_of(path) for path in (first, base)]
    assert not (out / "cells" / f"{NEGATION}.json").exists()
    done = ran(path, out)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 cells are done, 1 to run" in done.stderr
    assert [mark_of(path) for path in (first, base)] == written
    found = result(out, NEGATION)
    assert (found["failure"], found["cell"]["method"]) == ("", "not")
    assert len(found["rounds"]) == 1
    assert found["rounds"][0]["flops"] > found["rounds"][0]["bytes"] > 0
    assert (out / "report.md").exists()


def test_a_cell_that_fails_stops_no_other_one(tmp_path: Path) -> None:
    text = STUDY.replace('label = "NoT"', 'layers = "layers=nowhere.weight"')
    path, out = study(tmp_path, text), tmp_path / "out"
    done = ran(path, out)
    assert done.returncode == 1
    bad = result(out, "digits-cnn_digits-iid-not_layers_nowhere_weight-s0")
    assert "nowhere.weight" in bad["failure"]
    assert "nowhere.weight" in done.stderr
    good = result(out, RETRAIN)
    assert good["failure"] == ""
    assert set(good["scores"]) >= {"retain", "forget", "test", "mia"}


def test_an_interrupted_run_ends_its_processes(tmp_path: Path) -> None:
    path, out = study(tmp_path, STUDY.replace("rounds = 2", "rounds = 500")), tmp_path / "out"
    with subprocess.Popen(
        command(path, out), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment()
    ) as running:
        log = out / "logs" / "base-digits-cnn_digits-iid-s0.log"
        until = time.monotonic() + SECONDS
        while not (log.exists() and b"training round" in log.read_bytes()):
            assert time.monotonic() < until
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=SECONDS)
    assert running.returncode == 130
    assert b"stopped; the same command goes on" in told
    until = time.monotonic() + 30
    while found := processes_on(out):
        assert time.monotonic() < until, found
        time.sleep(0.1)


def processes_on(out: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if str(out) in words:
            found.append(" ".join(words))
    return found


def test_a_missing_data_folder_is_told(tmp_path: Path) -> None:
    path = study(tmp_path, STUDY.replace('name = "digits"', 'name = "cifar10"'))
    done = ran(path, tmp_path / "out")
    assert done.returncode != 0
    assert "give it with --data" in done.stderr
    done = ran(path, tmp_path / "out", "--data", str(tmp_path / "nowhere"))
    assert "cifar-10-batches-bin" in done.stderr
