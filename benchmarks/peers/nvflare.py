"""NVFLARE as a contestant: its simulator, whose clients are processes that talk to it over TCP."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

from benchmarks.contest import Work
from benchmarks.measuring import Memory, MemoryWatch, family
from benchmarks.peers.venvs import python_of
from benchmarks.processes import ROOT, BenchmarkError, Child

PACKAGES: Final = ("nvflare==2.9.0", "numpy")
START_SECONDS: Final = 120.0
ROUND_SECONDS: Final = 30.0
_WORKER: Final = b"simulator_worker"


class NvflareSimulator:
    """Each call of `rounds` is a job of its own.

    A round lasts from its first arrival at a client to that of the next round, so the job has one
    more. The server is the process that started the clients' processes; it is idle when the first
    of them appears.
    """

    name = "NVFLARE, simulator"

    def __init__(self, work: Work) -> None:
        self._work = work
        self._memory: Memory | None = None

    def __enter__(self) -> Self:
        self._python = python_of("nvflare", *PACKAGES)
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing outlives a job."""

    def rounds(self, count: int) -> list[float]:
        """Runs a job."""
        with ExitStack() as stack:
            (ROOT / "bench-out").mkdir(exist_ok=True)
            place = stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT / "bench-out"))
            folder = Path(place)
            command = [
                *(str(self._python), "-m", "benchmarks.peers.nvflare_job"),
                *("--clients", str(self._work.clients), "--bytes", str(self._work.nbytes)),
                *("--rounds", str(count + 1), "--folder", place),
            ]
            job = Child("nvflare", command, folder)
            stack.callback(job.end)
            watch = stack.enter_context(MemoryWatch(_server(job)))
            self._await_end(job, watch, START_SECONDS + (count + 1) * ROUND_SECONDS)
            return seconds_of((folder / "times.jsonl").read_text())

    def _await_end(self, job: Child, watch: MemoryWatch, seconds: float) -> None:
        until = time.monotonic() + seconds
        while job.running:
            self._memory = watch.memory()
            if time.monotonic() > until:
                raise BenchmarkError(f"the job did not end in {seconds:g} s: {job.tail()}")
            time.sleep(0.1)

    def memory(self) -> Memory | None:
        """That of the last job's server."""
        return self._memory


def _server(job: Child) -> int:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and job.running:
        for pid in family(job.pid):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            if _WORKER in command:
                return int(status.partition("PPid:")[2].split()[0])
        time.sleep(0.1)
    raise BenchmarkError(f"no client process in {START_SECONDS:g} s: {job.tail()}")


def seconds_of(text: str) -> list[float]:
    """Seconds from each round's first arrival to the next one's, of lines `[round, time]`."""
    first: dict[int, float] = {}
    for line in text.splitlines():
        number, at = json.loads(line)
        first[number] = min(at, first.get(number, at))
    return [after - before for before, after in pairwise(first[key] for key in sorted(first))]
