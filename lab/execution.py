"""One cell from its base to its result file."""

from __future__ import annotations

import platform
import shutil
import subprocess  # nosec B404 - for git, which names the commit
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

import fednot
from fednot.errors import FednotError
from fednot.manifest import Manifest
from lab import bases, measuring, outcome, results
from lab.cells import Cell
from lab.engines.engine import Engine, LabError, Opening, Session, Told
from lab.scene import PROBES, Scene, scene_of
from server.methods import method_named

WORK: Final = "work"


def path_of(out: Path, cell: Cell) -> Path:
    """Where a cell's result is."""
    return results.path_of(out, cell.id)


def work_of(out: Path, name: str) -> Path:
    """The folder in which a base or cell of a name is worked on."""
    return out / WORK / name


async def execute(cell: Cell, out: Path, engine: Engine, told: Told) -> None:
    """Runs a cell on a copy of its base and writes its result; a failure is a result, too."""
    started = datetime.now(UTC)
    result = _begun(cell, engine, started)
    folder = work_of(out, cell.id) / "state"
    try:
        result |= await _measured(cell, out, folder, engine, told)
    except Exception as fault:
        result["failure"] = f"{type(fault).__name__}: {fault}"
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if "scores" in result or result["failure"]:
            results.write(out, results.of(result, source=cell.id))


def expected(cells: Sequence[Cell]) -> list[results.Expected]:
    """The cells, as a report is told which there are to be."""
    return [
        results.Expected(
            id=cell.id,
            label=cell.method.shown,
            cell=results.Cell.model_validate(cell.description()),
        )
        for cell in cells
    ]


def write_failure(out: Path, cell: Cell, engine: Engine, failure: str) -> None:
    """Writes the result of a cell that could not run."""
    told = _begun(cell, engine, datetime.now(UTC)) | {"failure": failure}
    results.write(out, results.of(told, source=cell.id))


def _begun(cell: Cell, engine: Engine, started: datetime) -> dict[str, Any]:
    return {
        "format": results.FORMAT,
        "id": cell.id,
        "label": cell.method.shown,
        "cell": cell.description(),
        "config": cell.model_dump(mode="json") | {"digest": cell.digest},
        "provenance": provenance(started) | {"engine": engine.name},
        "failure": "",
    }


async def _measured(
    cell: Cell, out: Path, folder: Path, engine: Engine, told: Told
) -> dict[str, Any]:
    base = await bases.made(out, cell.base, engine, lambda _rounds: None)
    scene = scene_of(cell.base)
    bases.copied(base, cell, folder)
    if cell.measure.undo:
        scene.write_probes(folder / PROBES)
    manifest = Manifest.of(scene.server_task.build_model())
    before = outcome.current(folder, manifest)
    models, updates = outcome.stored(folder)
    history = updates if method_named(cell.method.name).needs.history else 0
    found = _Sequence(cell, scene, folder, manifest)
    await found.play(engine, base.flops, told)
    first, costs = found.outcomes[0], found.curves[0]
    gone = scene.targets[:1]
    result: dict[str, Any] = {
        "before": measuring.scores(cell, scene, before, gone),
        "scores": measuring.scores(cell, scene, first.flat, gone),
        "rounds": costs,
        "costs": {
            **{key: costs[-1][key] for key in ("bytes", "flops", "seconds")},
            "rounds": len(costs),
            "storage_bytes": models + history,
            "history_bytes": history,
        },
        "verification": first.verification(),
    }
    if cell.base.poisoned:
        doors = [measuring.backdoors(scene, flat)[gone[0]] for flat in (before, first.flat)]
        result["backdoor"] = dict(zip(("before", "after"), doors, strict=True))
    if cell.measure.relearning:
        result["relearning"] = measuring.relearning(cell, scene, first.flat, gone[0])
    if cell.measure.deletions > 1:
        result["deletions"] = found.deletions()
    return result


class _Sequence:
    """The deletions of a cell, one after the other; each begins with what the one before left."""

    def __init__(self, cell: Cell, scene: Scene, folder: Path, manifest: Manifest) -> None:
        self._cell = cell
        self._scene = scene
        self._folder = folder
        self._manifest = manifest
        self.outcomes: list[outcome.Outcome] = []
        self.curves: list[list[dict[str, Any]]] = []
        self.failure = ""

    async def play(self, engine: Engine, flops: dict[str, int], told: Told) -> None:
        """Deletes the clients, up to one after the first whose deletion is refused or fails."""
        cell = self._cell
        for number in range(1, len(self._targets) + 1):
            before = sum(len(each.made) for each in self.outcomes)
            gone = self._targets[:number]
            self._scene.server_task.watch(gone)
            opening = Opening(
                self._folder, self._scene, _after(before, told), cell, gone, flops=flops
            )
            try:
                async with engine.opened(opening) as session:
                    await self._forget(session)
            except (LabError, FednotError) as error:
                if number == 1:
                    raise
                self.failure = str(error)
                return

    async def _forget(self, session: Session) -> None:
        job_id = await session.forget()
        found = outcome.read(self._folder, self._manifest, job_id)
        if found.attempt.method != method_named(self._cell.method.name).name:
            raise LabError(
                f"{self._cell.method.name} was not done: {found.job.attempts[-1].explanation}"
            )
        self.outcomes.append(found)
        self.curves.append(found.curve(session.costs))

    @property
    def _targets(self) -> tuple[str, ...]:
        return self._scene.targets[: self._cell.measure.deletions]

    def deletions(self) -> list[dict[str, Any]]:
        """Each deletion with the figures of the model that it left, then the one that failed."""
        rows = []
        for number, (client, found) in enumerate(
            zip(self._targets, self.outcomes, strict=False), 1
        ):
            rows.append(
                {
                    "client": client,
                    "scores": measuring.scores(
                        self._cell, self._scene, found.flat, self._targets[:number]
                    ),
                    "backdoors": measuring.backdoors(self._scene, found.flat),
                    "method": found.attempt.method,
                    "tensors": list(found.attempt.tensors),
                    "rounds": len(found.made),
                }
            )
        if self.failure:
            client, method = self._targets[len(rows)], self._cell.method.name
            rows.append({"client": client, "method": method, "failure": self.failure})
        return rows


def _after(rounds: int, told: Told) -> Told:
    return lambda more: told(rounds + more)


def provenance(started: datetime) -> dict[str, Any]:
    """Where and with what a result was made."""
    return {
        "commit": _commit(),
        "machine": f"{platform.machine()}, {platform.system()}, {_processor()}",
        "torch": torch.__version__,
        "fednot": fednot.__version__,
        "started": started.isoformat(timespec="seconds"),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    lines = (line for line in text.splitlines() if line.startswith("model name"))
    return next(lines, platform.processor()).partition(":")[2].strip()


def _commit() -> str:
    root = Path(__file__).parents[1]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603  # nosec B603
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
