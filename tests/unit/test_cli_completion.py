"""Shells complete `fednot`, by the protocol that their scripts speak with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fednot.cli.main import app

PROGRAM = "import sys\nfrom fednot.cli.main import main\ntry:\n    main()\nfinally:\n    {}"
WITHOUT_TORCH = PROGRAM.format("sys.stderr.write('torch' * ('torch' in sys.modules))")


def completed(**environment: str) -> str:
    """What one call of a shell's script gets, in a process that must not import torch."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def test_bash_completes_options_without_torch() -> None:
    found = completed(
        _FEDNOT_COMPLETE="complete_bash", COMP_WORDS="fednot train --wait", COMP_CWORD="2"
    )
    assert found.split() == ["--wait-timeout"]


@pytest.mark.parametrize(
    ("shell", "words", "expected"),
    [
        ("bash", "fednot unlearn c", {"client", "class"}),
        ("bash", "fednot clients --format ", {"table", "json"}),
        ("zsh", "fednot certs re", {"request", "revoke", "retire", "renew"}),
        ("fish", "fednot appr", {"approvals", "approve"}),
    ],
)
def test_each_shell_completes_verbs_and_values(
    shell: str, words: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        "_FEDNOT_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    result = CliRunner().invoke(app, [], env=environment, prog_name="fednot")
    assert result.exit_code == 0, result.output
    assert all(word in result.stdout for word in expected), result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed_wherever_it_is_asked_for(shell: str) -> None:
    result = CliRunner().invoke(app, ["completion", shell])
    assert result.exit_code == 0
    assert "_FEDNOT_COMPLETE" in result.stdout
    assert "fednot" in result.stdout


def test_it_is_installed_for_this_user(tmp_path: Path) -> None:
    program = PROGRAM.format("pass")
    done = subprocess.run(
        [sys.executable, "-c", program, "completion", "fish", "--install"],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    (written,) = tmp_path.rglob("fednot.fish")
    assert str(written) in done.stdout
    assert "_FEDNOT_COMPLETE" in written.read_text()


def test_a_shell_that_is_not_known() -> None:
    assert CliRunner().invoke(app, ["completion", "tcsh"]).exit_code == 2
