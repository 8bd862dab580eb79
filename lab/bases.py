"""Bases: a federation is trained once for all methods, and each cell works on a copy of it.

The folder of a base is a server's state directory. Its `base.json` is written last: a base without
it was not finished, and is made again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, select, update

from fednot.whole_file import write_whole
from lab import outcome
from lab.cells import BaseSpec, Cell
from lab.engines.engine import Engine, LabError, Opening, Told
from lab.scene import scene_of
from server.state.commits import Commit
from server.state.database import Database
from server.state.schema import runs

BASES: Final = "bases"
_DONE: Final = "base.json"


@dataclass(frozen=True)
class Base:
    """A base that is there: `flops` are those of works by their keys, `seconds` its training's."""

    folder: Path
    flops: dict[str, int]
    seconds: float


def folder_of(out: Path, spec: BaseSpec) -> Path:
    """Where the base of a spec is."""
    return out / BASES / spec.id


def found(out: Path, spec: BaseSpec) -> Base | None:
    """The base of a spec, None if it is not there or not finished.

    Raises LabError for one that was made by another configuration.
    """
    folder = folder_of(out, spec)
    try:
        told = json.loads((folder / _DONE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if told.get("digest") != spec.digest:
        raise LabError(
            f"{folder} was trained by another configuration; give another --out, or delete it"
        )
    return Base(folder, told["flops"], told["seconds"])


async def made(out: Path, spec: BaseSpec, engine: Engine, told: Told) -> Base:
    """Trains a base, unless it is there. Raises LabError, ConfigError, DataError."""
    there = found(out, spec)
    if there is not None:
        return there
    folder = folder_of(out, spec)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scene, started = scene_of(spec), time.monotonic()
    async with engine.opened(Opening(folder, scene, told)) as session:
        await session.train()
        costs = session.costs
    values: dict[str, Any] = {
        "digest": spec.digest,
        "spec": spec.model_dump(mode="json"),
        "flops": costs.known,
        "seconds": time.monotonic() - started,
        "rounds": outcome.training_curve(folder),
    }
    write_whole(folder / _DONE, json.dumps(values, indent=1) + "\n")
    return Base(folder, costs.known, values["seconds"])


def copied(base: Base, cell: Cell, folder: Path) -> None:
    """Copies a base to a folder of its own, with the hyper-parameters of the cell's recovery."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base.folder, folder, copy_function=_copied)
    (folder / _DONE).unlink()
    changed = dict(cell.recovery.overrides)
    if cell.method.learning_rate is not None:
        changed["learning_rate"] = cell.method.learning_rate
    changed |= cell.method.config
    database = Database(folder / "state.sqlite3")
    try:
        database.write_now(Commit.TRAINING_STARTED, lambda c: _override(c, changed))
    finally:
        database.close()


def _copied(source: str, target: str) -> str:
    """Models and updates are never changed, so they are linked; all else is copied."""
    if source.endswith(".safetensors"):
        os.link(source, target)
        return target
    return shutil.copy2(source, target)


def _override(connection: Connection, changed: dict[str, float]) -> None:
    """Recovery has the hyper-parameters of the latest run, so these are changed there."""
    row = connection.execute(select(runs).order_by(runs.c.id.desc()).limit(1)).one()
    config = dict(row.config) | changed
    connection.execute(update(runs).where(runs.c.id == row.id).values(config=config))
