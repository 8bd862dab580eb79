"""A server whose system calls are written down by strace, and the log that comes of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.federation import ROOT, LocalFederation

from server.failpoints import TRACE

STRACE = shutil.which("strace")
CALLS = "write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat"
MOST_OF_A_WRITE = "4200"
"""A page of SQLite is 4096 bytes."""
_LINE = re.compile(
    r"(?P<thread>\d+)\s+(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<name>\w+)\()(?P<rest>.*)"
)
_FILE = re.compile(r"\d+<(?P<path>[^>]*)>")
_NAMED = re.compile(r'"(?P<path>/[^"]*)"')


@dataclass
class SystemCall:
    """One call: where in the log it begins and ends, and what it was given, as strace writes it."""

    name: str
    begins: int
    given: str
    ends: int = 0

    @property
    def path(self) -> str:
        """The file that it was called on; of a rename the new name."""
        found = _NAMED.findall(self.given) if self.name in ("unlink", "rename") else ()
        if found:
            return str(found[-1])
        of_handle = _FILE.search(self.given)
        return of_handle["path"] if of_handle else ""

    def __str__(self) -> str:
        return f"{self.begins}: {self.name}({self.given[:120]}"


def read_log(path: Path) -> list[SystemCall]:
    """The calls of a log of `strace -f`, in the order in which they began."""
    found: list[SystemCall] = []
    waiting: dict[str, SystemCall] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = _LINE.match(line)
        if match is None:
            continue
        thread, rest = match["thread"], match["rest"]
        if match["resumed"]:
            call = waiting.pop(thread)
            call.given += rest
            call.ends = number
            continue
        name = {"unlinkat": "unlink", "renameat": "rename", "renameat2": "rename"}.get(
            match["name"], match["name"]
        )
        call = SystemCall(name, number, rest.removesuffix(" <unfinished ...>"), number)
        if rest.endswith("<unfinished ...>"):
            waiting[thread] = call
        found.append(call)
    return found


class TracedFederation(LocalFederation):
    """A federation whose server runs in an interpreter of its own, under strace."""

    @property
    def places(self) -> Path:
        """Where the server writes at which failpoint it is, which strace sees as well."""
        return self.folder / "places"

    @property
    def system_calls(self) -> Path:
        return self.folder / "strace.log"

    def launch_server(self, *flags: str) -> None:
        """Starts the server under strace, which is its grandchild: signals reach the server."""
        assert STRACE is not None
        tracer = (
            STRACE,
            "-D",
            "-f",
            "--seccomp-bpf",
            "-y",
            "-s",
            MOST_OF_A_WRITE,
            "-e",
            f"trace={CALLS}",
        )
        log = self.folder / "server.log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), TRACE: str(self.places)}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    *(*tracer, "-o", str(self.system_calls), sys.executable, "-m", "server"),
                    *self.server_arguments(*flags),
                ],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self._processes["server"] = process  # type: ignore[assignment]

    def calls(self) -> list[SystemCall]:
        """What was written down; the server must have ended."""
        size = -1
        while size != (size := self.system_calls.stat().st_size):
            time.sleep(0.2)
        return read_log(self.system_calls)


class Order:
    """Finds calls one behind the other; says which one is missing between which lines."""

    def __init__(self, found: list[SystemCall]) -> None:
        self._found = found

    def after(
        self, moment: int, what: str, wanted: Callable[[SystemCall], bool], until: int = sys.maxsize
    ) -> SystemCall:
        """The first wanted call that begins behind a line, and ends before another."""
        for call in self._found:
            if call.begins > moment and call.ends < until and wanted(call):
                return call
        raise AssertionError(f"no {what} between the lines {moment} and {until} of the log")

    def all(self, wanted: Callable[[SystemCall], bool]) -> Iterator[SystemCall]:
        return (call for call in self._found if wanted(call))
