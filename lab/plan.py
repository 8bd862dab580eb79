"""What is left to do of a study: which bases are to be trained and which cells to be run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lab import bases, execution
from lab.cells import BaseSpec, Cell
from lab.engines.engine import LabError


class Standing(StrEnum):
    """How a cell stands."""

    DONE = "done"
    FAILED = "failed"
    OTHER = "of another configuration"
    OPEN = "to do"


def standing(out: Path, cell: Cell) -> Standing:
    """How a cell stands, by its result file; one that cannot be read is to do again."""
    try:
        told = json.loads(execution.path_of(out, cell).read_bytes())
        digest, failure = told["config"]["digest"], told["failure"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Standing.OPEN
    if digest != cell.digest:
        return Standing.OTHER
    return Standing.FAILED if failure else Standing.DONE


@dataclass(frozen=True)
class Plan:
    """What is left to do; `done` are the cells whose results are there."""

    bases: tuple[BaseSpec, ...]
    cells: tuple[Cell, ...]
    done: tuple[Cell, ...]

    @property
    def rounds(self) -> int:
        """The rounds that are left at the most."""
        of_bases = sum(spec.training.rounds for spec in self.bases)
        return of_bases + sum(cell.rounds * cell.measure.deletions for cell in self.cells)


def plan_of(out: Path, cells: Sequence[Cell], *, rerun: bool = False) -> Plan:
    """What is left of these cells: all that have no result, or one that failed.

    Raises LabError if there are results of another configuration; with `rerun` those are made anew.
    """
    stand = [(cell, standing(out, cell)) for cell in cells]
    other = [cell.id for cell, found in stand if found is Standing.OTHER]
    if other and not rerun:
        raise LabError(
            f"{out} holds results of another configuration: {', '.join(other[:5])}"
            f"{' ...' if len(other) > 5 else ''}; give another --out, or --rerun to make them anew"
        )
    left = tuple(cell for cell, found in stand if found is not Standing.DONE)
    done = tuple(cell for cell, found in stand if found is Standing.DONE)
    wanted = {cell.base.id: cell.base for cell in left}
    return Plan(tuple(s for s in wanted.values() if _is_open(out, s, rerun=rerun)), left, done)


def _is_open(out: Path, spec: BaseSpec, *, rerun: bool) -> bool:
    try:
        return bases.found(out, spec) is None
    except LabError:
        if not rerun:
            raise
        shutil.rmtree(bases.folder_of(out, spec))
        return True
