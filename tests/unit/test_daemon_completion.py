"""Shells complete `fednot-server` and `fednot-client` by scripts that bash really runs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from client import __main__ as client_program
from client.forget_settings import VERBS as CLIENT
from fednot.daemon_completion import COMPLETION, SHELLS, Verbs, script
from server.maintenance.commands import COMMANDS
from server.maintenance.commands import VERBS as SERVER

ROOT = Path(__file__).parents[2]
PROGRAMS: dict[str, Verbs] = {"fednot-server": SERVER, "fednot-client": CLIENT}


def completed(program: str, line: str) -> list[str]:
    """What bash offers at the end of a line."""
    given = line.split(" ")
    lines = [
        script(program, "bash", PROGRAMS[program]),
        f"COMP_WORDS=({' '.join(map(shlex.quote, given))}); COMP_CWORD={len(given) - 1}",
        f"_shtab_{program.replace('-', '_')}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
    ]
    done = subprocess.run(
        ["bash", "-u", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("fednot-server re", ["restore", "renew-ledger"]),
        ("fednot-server --no-sec", ["--no-secure-aggregation"]),
        ("fednot-server --aggregation m", ["mean", "median", "multi-krum"]),
        ("fednot-server --aggregation ", ["mean", "median", "trimmed-mean", "multi-krum"]),
        ("fednot-server --state-dir doc", ["docs"]),
        ("fednot-server --min-clients ", []),
        ("fednot-server fsck --state", ["--state-dir"]),
        ("fednot-server fsck --aggr", []),
        ("fednot-server backup --format j", ["json"]),
        ("fednot-server completion ", list(SHELLS)),
        ("fednot-client --insecure --task t.py:T --codec b", ["bf16"]),
        ("fednot-client f", ["forget"]),
        ("fednot-client forget --su", ["--subject"]),
        ("fednot-client forget --ids README", ["README.md"]),
    ],
)
def test_bash_offers_what_can_stand_there(line: str, offered: list[str]) -> None:
    assert set(offered) <= set(found := completed(line.split(" ")[0], line))
    assert bool(found) == bool(offered)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_is_offered_in_every_shell(program: str) -> None:
    bash, fish = (script(program, shell, PROGRAMS[program]) for shell in ("bash", "fish"))
    for kind in PROGRAMS[program].values():
        for name, field in kind.model_fields.items():
            if field.json_schema_extra is None:
                flag = name.replace("_", "-")
                assert f"--{flag}" in bash
                assert f" -l {flag} " in fish
    assert script(program, "zsh", PROGRAMS[program]).startswith("#compdef")


def test_no_command_of_the_server_is_missing() -> None:
    assert set(SERVER) - {""} == set(COMMANDS)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_it(program: str, shell: str) -> None:
    text = script(program, shell, PROGRAMS[program])
    if shutil.which(shell) is None:
        assert len(shlex.split(text.replace("\\'", ""), comments=False)) > 20
        return
    subprocess.run([shell, "-n", "-c", text], timeout=100, check=True)


def test_the_server_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[COMPLETION](["bash"]) == 0
    assert capsys.readouterr().out == script("fednot-server", "bash", SERVER)
    with pytest.raises(SystemExit) as ended:
        COMMANDS[COMPLETION](["tcsh"])
    assert ended.value.code == 2
    assert "Input should be 'bash', 'zsh' or 'fish'" in capsys.readouterr().err


def test_the_client_prints_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fednot-client", COMPLETION, "fish"])
    monkeypatch.setattr(os, "umask", lambda mask: mask)
    assert client_program.main() == 0
    assert capsys.readouterr().out == script("fednot-client", "fish", CLIENT)
