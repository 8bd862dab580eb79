"""Runs what is left of a study: each base and cell in a process of its own, a few at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fednot.whole_file import write_whole
from lab import execution
from lab.cells import BaseSpec, Cell
from lab.engines import engine_named
from lab.plan import Plan, Standing, standing
from lab.progress import Display

END_SECONDS: Final = 20.0
TAIL: Final = 3
"""How many of the last lines of a log a failure quotes."""


@dataclass(frozen=True)
class Options:
    """How to run: `workers` processes at once, each over the engine of a name."""

    out: Path
    engine: str = "in-process"
    address: str = ""
    workers: int = 1


@dataclass(frozen=True)
class Unit:
    """One process: the `kind` of its command, its specification as JSON, and its rounds."""

    id: str
    kind: str
    spec: str
    rounds: int
    shown: str

    @classmethod
    def of_base(cls, spec: BaseSpec) -> Unit:
        """Trains a base."""
        told = spec.model_dump_json(indent=1)
        return cls(f"base-{spec.id}", "base", told, spec.training.rounds, f"base of {spec.id}")

    @classmethod
    def of_cell(cls, cell: Cell) -> Unit:
        """Runs a cell."""
        rounds = cell.rounds * cell.measure.deletions
        return cls(cell.id, "cell", cell.model_dump_json(indent=1), rounds, cell.id)


@dataclass
class Runner:
    """Runs a plan. A unit that fails stops no other one."""

    options: Options
    display: Display
    failures: dict[str, str] = field(default_factory=dict)
    _ends: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, plan: Plan) -> None:
        """Runs all that is left; cancelled, it ends its processes first."""
        free = asyncio.Semaphore(self.options.workers)
        trained = {
            spec.id: asyncio.create_task(self._one(Unit.of_base(spec), free)) for spec in plan.bases
        }
        cells = [asyncio.create_task(self._cell(cell, trained, free)) for cell in plan.cells]
        every = [*trained.values(), *cells]
        try:
            await asyncio.gather(*every)
        finally:
            for task in every:
                task.cancel()
            await asyncio.gather(*every, return_exceptions=True)
            await asyncio.gather(*self._ends)

    async def _cell(
        self, cell: Cell, trained: dict[str, asyncio.Task[str]], free: asyncio.Semaphore
    ) -> None:
        if cell.base.id in trained:
            failure = await asyncio.shield(trained[cell.base.id])
            if failure:
                self._fail(cell, f"its base could not be trained: {failure}")
                return
        path = execution.path_of(self.options.out, cell)
        path.unlink(missing_ok=True)
        failure = await self._one(Unit.of_cell(cell), free)
        if failure and standing(self.options.out, cell) is not Standing.FAILED:
            self._fail(cell, failure)

    def _fail(self, cell: Cell, failure: str) -> None:
        engine = engine_named(self.options.engine, self.options.address)
        execution.write_failure(self.options.out, cell, engine, failure)
        self.failures[cell.id] = failure

    async def _one(self, unit: Unit, free: asyncio.Semaphore) -> str:
        """Runs one unit; returns what is wrong, "" if nothing is."""
        async with free:
            self.display.begins(unit.id, unit.shown, unit.rounds)
            failure = await self._played(unit)
            if failure:
                self.failures[unit.id] = failure
            self.display.ends(unit.id, failure)
            return failure

    async def _played(self, unit: Unit) -> str:
        out = self.options.out
        spec, log = out / "work" / f"{unit.id}.json", out / "logs" / f"{unit.id}.log"
        for path in (spec, log):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(spec, unit.spec)
        with log.open("wb") as file:
            child = await asyncio.create_subprocess_exec(
                *self._command(unit, spec),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=file,
                env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                start_new_session=True,
            )
        try:
            while child.stdout and (line := await child.stdout.readline()):
                self.display.moves(unit.id, _rounds_in(line))
            code = await child.wait()
        finally:
            ending = asyncio.create_task(_end(child))
            self._ends.add(ending)  # which outlives a cancellation that comes now
            await asyncio.shield(ending)
            spec.unlink(missing_ok=True)
        return f"{_tail(log)} (exit code {code}; {log})" if code else ""

    def _command(self, unit: Unit, spec: Path) -> Sequence[str]:
        options = self.options
        told = [sys.executable, "-m", "lab", unit.kind, str(spec), "--out", str(options.out)]
        told += ["--engine", options.engine]
        return [*told, "--ray-address", options.address] if options.address else told


async def _end(child: asyncio.subprocess.Process) -> None:
    """Ends a process and those that it started: politely, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.returncode is not None:
            return
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            return
        try:
            async with asyncio.timeout(END_SECONDS):
                await child.wait()
        except TimeoutError:
            continue


def _rounds_in(line: bytes) -> int:
    try:
        return int(json.loads(line)["rounds"])
    except (ValueError, KeyError, TypeError):
        return 0


def _tail(log: Path) -> str:
    with log.open(encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in deque(file, TAIL) if line.strip()]
    return lines[-1] if lines else "it ended without a word"
