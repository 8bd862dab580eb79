"""A terminal: a shell that is fed what a reader of a page would type, on a machine of a test."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from support.markdown import commands
from support.namespaces import Machine

_marks = itertools.count(1)


class Terminal:
    """A shell in a folder of a machine; what it and its programs print is in one log."""

    def __init__(self, machine: Machine, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.machine, self.folder = machine, folder
        self._log = folder / f".terminal-{next(_marks)}.log"
        with self._log.open("wb") as log:
            self._shell = subprocess.Popen(
                machine.inside("bash", "--noprofile", "--norc"),
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """All that was printed until now."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def leave(self, text: str) -> int:
        """Types something that goes on running. Returns where its output begins."""
        start = len(self.output)
        self._type(text)
        return start

    def run(self, text: str, seconds: float) -> str:
        """Types commands and waits for their end; each must succeed. Returns what they printed."""
        mark = f"fednot-test-mark-{next(_marks)}"
        start = len(self.output)
        self._type(f"trap 'echo {mark} failed $?' ERR\n{text}\necho {mark} done")
        end = time.monotonic() + seconds
        while f"{mark} done" not in self.output[start:]:
            assert self._shell.poll() is None, f"the shell ended:\n{self.output[start:]}"
            assert time.monotonic() < end, f"not done in {seconds} s: {text}\n{self.output[start:]}"
            time.sleep(0.1)
        printed = self.output[start:]
        assert f"{mark} failed" not in printed, f"{commands(text)}:\n{printed}"
        return printed.replace(f"{mark} done\n", "")

    def interrupt(self) -> None:
        """Presses Ctrl-C."""
        pids = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self._shell.pid)],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        for pid in pids.stdout.split():
            os.kill(int(pid), signal.SIGINT)

    def close(self, seconds: float = 30) -> None:
        """Ends the shell, whose programs have ended; kills it when it has not by then."""
        if self._shell.stdin is not None:
            self._shell.stdin.close()
        try:
            self._shell.wait(seconds)
        except subprocess.TimeoutExpired:
            self._shell.kill()
            self._shell.wait(seconds)

    def _type(self, text: str) -> None:
        if self._shell.stdin is None:
            raise ValueError("this terminal has no keyboard")
        self._shell.stdin.write(text + "\n")
        self._shell.stdin.flush()


def shown(expected: str, printed: str) -> str | None:
    """The first line of an output on a page with which what was printed ceases to match, or None.

    A line `...` stands for any lines, `...` in a line for any text; times, fractions, ids and the
    widths of columns may differ.
    """
    lines = [line for line in expected.splitlines() if line.strip()]
    found = "".join(f"{_worn(line)}\n" for line in printed.splitlines())
    for count, line in enumerate(lines, start=1):
        pattern = "".join(_pattern(shown_line) for shown_line in lines[:count])
        if not re.search(pattern, found, re.MULTILINE):
            return line
    return None


def _pattern(line: str) -> str:
    """What matches a line of output that a page shows, with the end of the line."""
    if line.strip() == "...":
        return r"(?:.*\n)*?"
    worn = re.sub(r" \.\.\.$|^\.\.\. ", "...", _worn(line))
    return "^" + ".*".join(re.escape(part) for part in worn.split("...")) + r"\n"


def _worn(line: str) -> str:
    """A line without what differs from run to run."""
    bare = re.sub(r"\b(job|run)-[0-9a-f]{8,}", r"\1-ID", line.strip())
    bare = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(,\d+)?)?Z?", "TIME", bare)
    bare = re.sub(r"\d+\.\d+(\.\d+)*", "FRACTION", bare)
    bare = re.sub(r"\d+ s\b", "SECONDS", bare)
    return re.sub(r"\s+", " ", bare)
