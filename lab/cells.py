"""The cells of a study: one dataset, model, partition, method and seed each.

A base is what a cell begins with, the trained federation, which the cells of all methods share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lab.config import (
    ConfigError,
    DatasetSpec,
    Measure,
    MethodSpec,
    ModelSpec,
    PartitionSpec,
    Recovery,
    StudyConfig,
    Training,
)
from server.methods import method_named


class BaseSpec(BaseModel):
    """All that the training of a base depends on, enough to train it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetSpec
    model: ModelSpec
    partition: PartitionSpec
    seed: int
    training: Training
    poisoned: int = 0
    examples: int = 2000
    keep_updates: int = 0
    data: Path | None = None

    @property
    def id(self) -> str:
        """What its folder is called."""
        return "-".join((self.dataset.key, self.model.key, self.partition.key, f"s{self.seed}"))

    @property
    def digest(self) -> str:
        """The sha256 of what decides its result, in hexadecimal; where the data lie does not."""
        return _digest(self.model_dump(mode="json", exclude={"data"}))


class Cell(BaseModel):
    """All that the result of a cell depends on, enough to run it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: BaseSpec
    method: MethodSpec
    recovery: Recovery
    measure: Measure

    @property
    def id(self) -> str:
        """What its result file is called."""
        start, _, seed = self.base.id.rpartition("-")
        return "-".join((start, self.method.key, seed))

    @property
    def digest(self) -> str:
        """The sha256 of what decides its result, in hexadecimal; neither its label nor the place
        of the data does.
        """
        told = self.model_dump(mode="json", exclude={"base": {"data"}, "method": {"label"}})
        return _digest(told)

    @property
    def rounds(self) -> int:
        """The recovery rounds that it takes at the most, for one deletion."""
        if self.method.rounds:
            return self.method.rounds
        retrains = self.method.name == "retrain"
        return self.base.training.rounds if retrains else self.recovery.rounds

    def description(self) -> dict[str, Any]:
        """What the result says of it in a few words."""
        return {
            "dataset": self.base.dataset.name,
            "model": self.base.model.name,
            "partition": self.base.partition.key,
            "method": self.method.name,
            "label": self.method.shown,
            "seed": self.base.seed,
        }


def cells_of(config: StudyConfig, *, data: Path | None = None, only: str = "") -> list[Cell]:
    """The cells of a study whose ids fit a pattern, base after base, in the order of the file."""
    found = list(_cells(config, data))
    if not only:
        return found
    fitting = [cell for cell in found if fnmatchcase(cell.id, only) or only in cell.id]
    if not fitting:
        ids = ", ".join(cell.id for cell in found[:5])
        raise ConfigError(f"no cell fits {only!r}; there are {len(found)}, such as {ids}")
    return fitting


def _cells(config: StudyConfig, data: Path | None) -> Iterator[Cell]:
    axes = (config.dataset, config.model, config.partition, config.study.seeds)
    keeps = any(method_named(method.name).needs.history for method in config.method)
    measure = config.measure
    for dataset, model, partition, seed in product(*axes):
        spec = BaseSpec(
            dataset=dataset,
            model=model,
            partition=partition,
            seed=seed,
            training=config.training,
            poisoned=measure.deletions if measure.backdoor else 0,
            examples=measure.examples,
            keep_updates=config.training.keep_updates if keeps else 0,
            data=data,
        )
        for method in config.method:
            yield Cell(base=spec, method=method, recovery=config.recovery, measure=measure)


def read_cell(path: Path) -> Cell:
    """Reads what `write_cell` wrote. Raises ConfigError."""
    try:
        return Cell.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"the cell {path} cannot be read: {error}") from error


def read_base(path: Path) -> BaseSpec:
    """Reads the specification of a base. Raises ConfigError."""
    try:
        return BaseSpec.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"the base {path} cannot be read: {error}") from error


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
