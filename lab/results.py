"""The result of one cell as a JSON file, and those of a folder.

A cell is one dataset, model, partition, method and seed. Accuracies are shares from 0 to 1; bytes,
FLOPs and seconds count up from the moment of the deletion. What was not measured is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fednot.whole_file import write_whole

FORMAT: Final = 1
CELLS: Final = "cells"
EXPECTED: Final = "expected.json"
PLACES: Final = 3
"""How many faults of a file are told."""

Number = Annotated[float, Field(allow_inf_nan=False)]


class ResultError(ValueError):
    """A file that is no result of a cell, or a result that cannot be written."""


class Part(BaseModel):
    """A part of a result. What a later version adds is kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


Found = TypeVar("Found", bound=Part)


class Cell(Part):
    """What was run. `label` is the method's name in tables: variants of one method differ in it."""

    dataset: str
    model: str
    partition: str
    method: str
    seed: int
    label: str = ""


class Figures(Part):
    """Three accuracies, the balanced attack, the confidence attack (docs/lab.md)."""

    retain: Number | None = None
    forget: Number | None = None
    test: Number | None = None
    mia: Number | None = None
    mia_confidence: Number | None = None


class Round(Part):
    """One round after the deletion; bytes, FLOPs and seconds of all rounds up to this one."""

    number: int
    phase: str
    test: Number | None = None
    retain: Number | None = None
    forget: Number | None = None
    backdoor: Number | None = None
    bytes: Number | None = None
    flops: Number | None = None
    seconds: Number | None = None


class Costs(Part):
    """What the whole unlearning took; storage and history in bytes at rest."""

    rounds: Number | None = None
    bytes: Number | None = None
    flops: Number | None = None
    seconds: Number | None = None
    storage_bytes: Number | None = None
    history_bytes: Number | None = None


class Backdoor(Part):
    """The share of triggered images that are answered with the trigger's class."""

    before: Number | None = None
    after: Number | None = None


class Finding(Part):
    """One model that verification looked at: "recovered" or "undone: ...", after so many rounds."""

    name: str
    rounds: int = 0
    figures: dict[str, Number] = {}

    @property
    def undone(self) -> bool:
        """Whether it is a model of the undo attack."""
        return self.name.startswith("undone")


class Verification(Part):
    """Two verdicts, "pass", "fail" or "not-possible", and the models that they rest on."""

    behaviour: str
    depth: str
    findings: tuple[Finding, ...] = ()


class Relearned(Part):
    """Accuracy on forgotten samples that were not shown, after 0, 1, 2, ... passes over a few."""

    accuracies: tuple[Number, ...] = Field(min_length=1)


class Deletion(Part):
    """One of several deletions in a row; `backdoors` are those of every client by its name."""

    client: str
    method: str = ""
    tensors: tuple[str, ...] = ()
    scores: Figures = Figures()
    backdoors: dict[str, Number] = {}


class Result(Part):
    """All that was measured of one cell; `failure` is why nothing was, else empty."""

    format: Literal[1] = FORMAT
    id: str
    label: str = ""
    cell: Cell
    config: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    before: Figures | None = None
    scores: Figures | None = None
    rounds: tuple[Round, ...] = ()
    costs: Costs | None = None
    backdoor: Backdoor | None = None
    verification: Verification | None = None
    relearning: Relearned | None = None
    deletions: tuple[Deletion, ...] = ()
    failure: str = ""

    @model_validator(mode="after")
    def _has_scores(self) -> Self:
        if self.scores is None and not self.failure:
            raise ValueError("it has neither scores nor a failure that says why")
        return self

    @property
    def name(self) -> str:
        """What the method is called in tables."""
        return self.label or self.cell.label or self.cell.method


class Expected(Part):
    """A cell that is to be run, so that a report can tell that it is missing."""

    id: str
    label: str = ""
    cell: Cell

    @property
    def name(self) -> str:
        """What the method is called in tables."""
        return self.label or self.cell.label or self.cell.method


class _Plan(Part):
    format: Literal[1] = FORMAT
    cells: tuple[Expected, ...]


@dataclass(frozen=True)
class Folder:
    """What a folder holds: results, what was to be run, and why which file cannot be read."""

    results: tuple[Result, ...]
    expected: tuple[Expected, ...] = ()
    unreadable: tuple[str, ...] = ()


def path_of(folder: Path, cell_id: str) -> Path:
    """Where the result of a cell is. Raises ResultError for an id that is no plain file name."""
    if not cell_id or "/" in cell_id or "\\" in cell_id or cell_id.startswith("."):
        raise ResultError(f"the cell id {cell_id!r} is no file name; use letters, digits, - and .")
    return folder / CELLS / f"{cell_id}.json"


def write(folder: Path, result: Result) -> Path:
    """Writes a result whole, in place of an older one. Raises ResultError, OSError."""
    path = path_of(folder, result.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, result.model_dump_json(indent=1) + "\n")
    return path


def write_expected(folder: Path, cells: Sequence[Expected]) -> Path:
    """Writes which cells a run is to have, so that its report names those that are missing."""
    path = folder / EXPECTED
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, _Plan(cells=tuple(cells)).model_dump_json(indent=1) + "\n")
    return path


def of(data: object, *, source: str = "the result") -> Result:
    """Checks a result put together as a dict. Raises ResultError that says what is wrong."""
    try:
        return Result.model_validate(data)
    except ValidationError as error:
        raise ResultError(f"{source} is no result of a lab cell: {_faults(error)}") from error


def read(path: Path) -> Result:
    """Reads one result. Raises ResultError for a truncated or foreign file, OSError."""
    found = _parsed(Result, path, "result of a lab cell")
    if found.id != path.stem:
        raise ResultError(f"{path} holds the cell {found.id}; was it renamed? Name it by its id")
    return found


def load(folder: Path) -> Folder:
    """Reads all results of a folder; files that cannot be read are named and not left out silently.

    Raises ResultError if the folder has no cells at all.
    """
    paths = sorted((folder / CELLS).glob("*.json"))
    plan = folder / EXPECTED
    if not paths and not plan.is_file():
        raise ResultError(
            f"{folder} has no {CELLS}/*.json; give the folder that `python -m lab run` wrote to"
        )
    results: list[Result] = []
    unreadable: list[str] = []
    expected: tuple[Expected, ...] = ()
    for path in paths:
        try:
            results.append(read(path))
        except (ResultError, OSError) as error:
            unreadable.append(str(error))
    if plan.is_file():
        try:
            expected = _parsed(_Plan, plan, "list of cells to run").cells
        except (ResultError, OSError) as error:
            unreadable.append(str(error))
    return Folder(tuple(results), expected, tuple(unreadable))


def _parsed(kind: type[Found], path: Path, called: str) -> Found:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        if any(fault["type"] == "json_invalid" for fault in error.errors()):
            raise ResultError(
                f"{path} is cut short or no JSON: {_faults(error)}; delete it, run the cell again"
            ) from error
        raise ResultError(f"{path} is no {called}: {_faults(error)}") from error


def _faults(error: ValidationError) -> str:
    told = []
    for fault in error.errors()[:PLACES]:
        place = ".".join(str(part) for part in fault["loc"])
        told.append(f"{place}: {fault['msg']}" if place else fault["msg"])
    left = error.error_count() - len(told)
    return "; ".join(told) + (f"; and {left} more" if left > 0 else "")
