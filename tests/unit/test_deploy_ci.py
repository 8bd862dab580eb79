"""The plugin by which CI refuses skipped tests, in real pytest processes; and its scripts."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock, call

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    path
    for folder in (".ci", "deploy")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file() and path.read_bytes().startswith((b"#!/bin/sh", b"#!/usr/bin/env bash"))
]
SKIPPED = "import pytest\n@pytest.mark.skip(reason='no device')\ndef test_device():\n    pass\n"
SKIPPED_MODULE = "import pytest\npytest.skip('no device', allow_module_level=True)\n"
SKIPPED_INSIDE = "import pytest\ndef test_device():\n    pytest.skip('no device')\n"
PASSED = "def test_sum():\n    assert 1 + 1 == 2\n"
EXPECTED_FAILURE = "import pytest\n@pytest.mark.xfail\ndef test_sum():\n    assert 1 + 1 == 3\n"
FAILED = "def test_sum():\n    assert 1 + 1 == 3\n"


def run_pytest(
    folder: Path, text: str, allowed: str = "", workers: tuple[str, ...] = ()
) -> tuple[int, str]:
    (folder / "cuda").mkdir()
    (folder / "cuda" / "test_made.py").write_text(text)
    (folder / "test_passes.py").write_text(PASSED)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / ".ci"),
        "FEDNOT_CI_ALLOWED_SKIPS": allowed,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no_skips", "--rootdir", folder),
            *("-p", "xdist.plugin", *workers, folder),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=environment,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "worker"])
@pytest.mark.parametrize("text", [SKIPPED, SKIPPED_MODULE, SKIPPED_INSIDE])
def test_a_skip_fails_the_run_and_is_named(
    tmp_path: Path, text: str, workers: tuple[str, ...]
) -> None:
    code, said = run_pytest(tmp_path, text, workers=workers)
    assert code != 0
    assert "CI allows no skip: cuda/test_made.py" in said


@pytest.mark.parametrize(
    ("text", "allowed", "code"),
    [
        (SKIPPED, "cuda/", 0),
        (SKIPPED, "other/", 1),
        (EXPECTED_FAILURE, "", 0),
        (PASSED, "", 0),
        (FAILED, "cuda/", 1),
    ],
)
def test_other_outcomes_stand(tmp_path: Path, text: str, allowed: str, code: int) -> None:
    assert run_pytest(tmp_path, text, allowed)[0] == code


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_stop_at_errors_and_are_executable(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True, timeout=100)
    assert "\nset -eu" in script.read_text()
    assert os.access(script, os.X_OK)


def test_a_round_trip_removes_its_folder_once_what_it_killed_has_ended() -> None:
    """A process that still writes there has the removal fail, and with it the release."""
    trip = runpy.run_path(str(ROOT / ".ci" / "round_trip.py"))["RoundTrip"](Path())
    stuck = Mock(wait=Mock(side_effect=[subprocess.TimeoutExpired("fednot-server", 30), -9]))
    trip.processes.append(stuck)
    trip.end()
    assert stuck.mock_calls == [call.terminate(), call.wait(30), call.kill(), call.wait(30)]
