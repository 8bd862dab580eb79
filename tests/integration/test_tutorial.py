"""The tutorial, executed as it stands: every block, in order, by real processes in a new folder."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.federation import eventually
from support.markdown import Block, blocks
from support.namespaces import ROOT, Machine, environment, machines, reason_to_skip
from support.terminal import Terminal, shown

from fednot.receipt import ReceiptError, verified

SKIP = reason_to_skip()
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(SKIP is not None, reason=SKIP or ""),
]

PAGE = ROOT / "docs" / "tutorial.md"
TERMINAL = re.compile(r"\*\*(first|second|third) terminal\*\*")
SAVED_AS = re.compile(r"[Ss]ave (?:this|it) as `([^`]+)`")
LEFT = "leave it running", "leave them running"
BLOCK_SECONDS = 300.0
WAIT_SECONDS = 200.0
BUILT = ("pyproject.toml", "README.md", "LICENSE", "fednot", "server", "client")
TRAINING = "7. Train"
SPREAD = 2.0
"""How much more than the page says it may take: that leaves out venv and pip."""


@dataclass
class Reader:
    """Somebody who does what the page says, and compares what is printed with what it shows."""

    machine: Machine
    folder: Path
    environment: dict[str, str]
    terminals: dict[str, Terminal] = field(default_factory=dict)
    at: str = "first"
    last: Block | None = None
    printed: dict[str, str] = field(default_factory=dict)

    def follow(self, block: Block) -> None:
        """Does one block of the page."""
        if named := TERMINAL.search(block.lead):
            self.at = named[1]
        if block.language == "python":
            self._save(block)
        elif block.language == "sh":
            self._type(block)
        else:
            assert block.language == "text", f"line {block.line}: no test knows {block.language!r}"
            self._compare(block)

    @property
    def terminal(self) -> Terminal:
        """The one that the page speaks of now."""
        if self.at not in self.terminals:
            self.terminals[self.at] = Terminal(self.machine, self.folder, self.environment)
        return self.terminals[self.at]

    def _save(self, block: Block) -> None:
        name = SAVED_AS.search(block.lead)
        assert name, f"line {block.line}: the page does not say where to save this"
        (self.folder / "digits-federation" / name[1]).write_text(block.text + "\n")

    def _type(self, block: Block) -> None:
        text = block.text.replace("REPOSITORY", str(self.folder / "repository"))
        if any(words in block.lead for words in LEFT):
            self.terminal.leave(text)
        else:
            self.printed[block.heading] = self.terminal.run(text, BLOCK_SECONDS)
        self.last = block

    def _compare(self, block: Block) -> None:
        assert self.last is not None
        if any(words in self.last.lead for words in LEFT):
            for line in block.text.splitlines():
                self._await(line)
        else:
            missing = shown(block.text, self.printed[self.last.heading])
            assert missing is None, (
                f"line {block.line}: not printed: {missing}\n{self.printed[self.last.heading]}"
            )

    def _await(self, line: str) -> None:
        """Until a line of what was left running is printed."""
        terminal = self.terminal
        printed = f"`{line}` is printed"
        eventually(printed, lambda: shown(line, terminal.output) is None, WAIT_SECONDS)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with machines("tutorial") as [machine]:
        repository(tmp_path / "repository")
        found = Reader(machine, tmp_path, with_python(tmp_path / "bin"))
        try:
            yield found
        finally:
            for terminal in found.terminals.values():
                terminal.close(5)


def repository(folder: Path) -> None:
    """A repository with what pip builds of this checkout as it is now, committed or not."""
    folder.mkdir()
    listing = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--")
    listed = _git(ROOT, *listing, *BUILT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    _git(folder, "init", "--quiet")
    _git(folder, "add", "--all")
    author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    _git(folder, *author, "commit", "--quiet", "--no-verify", "--message", "All of it")


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-c", "safe.directory=*", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def with_python(folder: Path) -> dict[str, str]:
    """An environment whose `python3 -m venv` makes one that finds these tests' dependencies.

    So pip has fednot alone to build and to install, and needs no network.
    """
    folder.mkdir()
    program = folder / "python3"
    real = (
        Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    )
    packages = f"lib/{real.name}/site-packages"
    program.write_text(
        f'#!/bin/sh\n{real} "$@" || exit\n[ "$1 $2" = "-m venv" ] || exit 0\n'
        f'cd "$3/{packages}" && rm -rf setuptools* && '  # an old one, in 3.11
        f"echo {sysconfig.get_path('purelib')} >of-tests.pth\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    kept = environment() | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    kept.pop("PYTHONPATH", None)
    return kept | {"PIP_NO_BUILD_ISOLATION": "false", "PIP_NO_INDEX": "1"}


def test_every_block_of_the_tutorial_does_what_it_says(reader: Reader) -> None:
    started, used = time.monotonic(), _cpu_seconds()
    for block in blocks(PAGE):
        reader.follow(block)
    for terminal in reader.terminals.values():
        terminal.interrupt()
        terminal.close()
    took, cpu = time.monotonic() - started, _cpu_seconds() - used

    print(f"the tutorial took {took:.0f} s and {cpu:.0f} CPU seconds, without what pip downloads")
    assert 0 < cpu <= SPREAD * stated("CPU seconds")
    assert took < 600
    the_model_has_learned_and_the_receipt_is_whole(reader)
    assert "stopping" in reader.terminals["second"].output


def the_model_has_learned_and_the_receipt_is_whole(reader: Reader) -> None:
    """What the page says in words of its outputs."""
    folder = reader.folder / "digits-federation"
    [*_, last] = re.findall(
        r"completed, 3 of 3 updates, accuracy ([\d.]+)", reader.printed[TRAINING]
    )
    assert float(last) > 0.9
    keys = (folder / "receipt-keys.pem").read_text()
    token = (folder / "receipt.jws").read_text()
    assert "office-c" not in json.dumps(scopes_of(token, keys))
    with pytest.raises(ReceiptError):
        verified(token.replace(token[100], "A" if token[100] != "A" else "B", 1), keys)


def scopes_of(token: str, keys: str) -> list[str]:
    """What a receipt says was forgotten."""
    return [scope.client for scope in verified(token, keys).scopes]


def stated(unit: str) -> float:
    """A number of the page, by its unit. Raises AssertionError unless it is there once."""
    [found] = re.findall(rf"(\d+) {unit}", PAGE.read_text())
    return float(found)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
