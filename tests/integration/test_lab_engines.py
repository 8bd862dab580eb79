"""The same small cell in process, over gRPC with real processes, and on Ray: the same figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lab_study import study

from lab.cells import Cell, cells_of
from lab.config import read
from lab.engines import engine_named
from lab.execution import execute, path_of
from lab.outcome import current_of
from server.state.database import Database

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
LEARNT = 0.3
"""More than a constant guess can have: the cell must have learnt something to compare."""

STUDY = """
[study]
name = "engines"
[[dataset]]
name = "digits"
train = 600
test = 200
[[model]]
name = "cnn-digits"
[[method]]
name = "not"
[training]
rounds = 3
clients = 3
batch_size = 16
[recovery]
rounds = 3
[measure]
examples = 200
"""


async def figures(cell: Cell, out: Path, name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    told: list[int] = []
    await execute(cell, out, engine_named(name), told.append)
    found: dict[str, Any] = json.loads(path_of(out, cell).read_text())
    assert (found["failure"], found["provenance"]["engine"]) == ("", name)
    assert told[-1] == len(found["rounds"]) == 3
    return found


@pytest.mark.parametrize("name", ["grpc", "ray"])
async def test_engines_agree(tmp_path: Path, name: str) -> None:
    if name == "ray":
        pytest.importorskip("ray")
    (cell,) = cells_of(read(study(tmp_path, STUDY)))
    here = await figures(cell, tmp_path / "here", "in-process")
    there = await figures(cell, tmp_path / name, name)
    assert here["scores"]["retain"] > LEARNT
    for part in ("before", "scores"):
        assert there[part] == pytest.approx(here[part], abs=1e-6)
    curves = [[row["test"] for row in found["rounds"]] for found in (here, there)]
    assert curves[1] == pytest.approx(curves[0], abs=1e-6)
    assert there["costs"]["bytes"] == here["costs"]["bytes"]
    if name == "ray":
        assert there["costs"]["flops"] == here["costs"]["flops"]
    assert model_of(tmp_path / name, cell) == model_of(tmp_path / "here", cell)


def model_of(out: Path, cell: Cell) -> str:
    """The hash of the base that was trained; older versions may be swept by now, or not."""
    database = Database(out / "bases" / cell.base.id / "state.sqlite3")
    try:
        return database.read_now(current_of).sha256
    finally:
        database.close()
