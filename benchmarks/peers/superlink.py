"""Flower's SuperLink deployment as a contestant: it starts a process per client and round."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from benchmarks.contest import Work
from benchmarks.measuring import Memory, MemoryWatch
from benchmarks.peers.flower import PACKAGES, QUIET
from benchmarks.peers.venvs import python_of
from benchmarks.processes import ROOT, BenchmarkError, Child, await_port, free_port

ROUND_SECONDS: Final = 180.0
_APP: Final = """[project]
name = "bench-app"
version = "1.0.0"
description = "rounds without training"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "bench_app:server"
clientapp = "bench_app:client"

[tool.flwr.app.config]
times = ""
bytes = 0
rounds = 0
clients = 0
"""
_CONNECTION: Final = """[superlink]
default = "bench"

[superlink.bench]
address = "127.0.0.1:{port}"
insecure = true
"""


class FlowerSuperLink:
    """A SuperLink with a SuperNode for each client; each call of `rounds` is a run of its own."""

    name = "Flower, SuperLink"

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._bin = python_of("flower", *PACKAGES).parent
        (ROOT / "bench-out").mkdir(exist_ok=True)
        with ExitStack() as stack:
            place = stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT / "bench-out"))
            self._folder = Path(place)
            port = str(free_port())
            self._environment = QUIET | {
                "FLWR_HOME": place,
                "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            }
            self._write_app(port)
            served = ("--insecure", "--port", port, "--disable-runtime-dependency-installation")
            superlink = self._child("superlink", "flower-superlink", *served)
            stack.callback(superlink.end)
            await_port(superlink, int(port))
            self._watch = stack.enter_context(MemoryWatch(superlink.pid, tree=True))
            for index in range(self._work.clients):
                dialled = ("--insecure", "--superlink", f"127.0.0.1:{port}")
                own = ("--port", str(free_port()))
                node = self._child(f"node{index}", "flower-supernode", *dialled, *own)
                stack.callback(node.end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _child(self, name: str, program: str, *arguments: str) -> Child:
        command = [str(self._bin / program), *arguments]
        return Child(name, command, self._folder, self._environment)

    def _write_app(self, port: str) -> None:
        package = self._folder / "app" / "bench_app"
        package.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("superlink_app.py"), package / "__init__.py")
        (self._folder / "app" / "pyproject.toml").write_text(_APP)
        (self._folder / "config.toml").write_text(_CONNECTION.format(port=port))

    def rounds(self, count: int) -> list[float]:
        """Submits a run; its first round counts from the submission and includes the start."""
        times = self._folder / "times.jsonl"
        times.unlink(missing_ok=True)
        work = self._work
        config = f"times='{times}' bytes={work.nbytes} rounds={count} clients={work.clients}"
        submitted = time.monotonic()
        run = self._child("run", "flwr", "run", str(self._folder / "app"), "bench", "-c", config)
        try:
            if run.wait(ROUND_SECONDS):
                raise BenchmarkError(f"flwr run failed: {run.tail()}")
            return self._awaited(times, submitted, count)
        finally:
            run.end()

    def _awaited(self, times: Path, before: float, count: int) -> list[float]:
        until = before + (count + 1) * ROUND_SECONDS
        while time.monotonic() < until:
            lines = times.read_text().splitlines() if times.exists() else []
            if len(lines) == count:
                return _seconds_of([json.loads(line) for line in lines], before, self._work.clients)
            time.sleep(0.2)
        raise BenchmarkError(f"{len(lines)} of {count} rounds in {until - before:g} s")

    def memory(self) -> Memory:
        """The SuperLink's and the ServerApp's together."""
        return self._watch.memory()


def _seconds_of(rows: list[list[float]], before: float, clients: int) -> list[float]:
    found = []
    for number, at, good in rows:
        if good != clients:
            raise BenchmarkError(f"{good:g} of {clients} clients answered in round {number:g}")
        found.append(at - before)
        before = at
    return found
