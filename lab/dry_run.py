"""Layer choice by a dry run on the server: what can be told of a choice without any client.

Each choice of layers is negated in the base, and the base itself teaches the negated model on
samples of the server's own, by their inputs alone: a real server's proxy samples have no labels, so
the lab does not look at those that they have here. Two figures are taken on the server's test data:
the accuracy after a fixed number of passes, which should tell how fast recovery goes, and the
accuracy after the layers are negated again, which should tell how much of the old model is left.

The old model teaches what was to be forgotten, too, but only where the samples show it: a trigger
that is in none of them is not taught. What is recovered here is thrown away and never released. The
procedure is ours, no paper's; whether it predicts anything is what `lab.report.dry_run` compares.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import numpy as np
import torch

from fednot import training
from fednot.layers import Choice, LayerMap, choose
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import load_into
from lab import bases, outcome
from lab.bases import Base
from lab.cells import BaseSpec, Cell
from lab.config import ConfigError
from lab.datasets import stratified
from lab.engines.engine import LabError
from lab.scene import Scene, scene_of
from server import initial_model
from server.methods.distillation import Distillation
from server.methods.negation import negated
from server.state.database import Database
from server.verification.undoing import undoing

PASSES: Final = 5
"""Passes over the server's samples, as many as FUKD distils for."""

TEMPERATURE: Final = 1.0
"""Of the answers that are taught. At 3, FUKD's, and the learning rate of training, some choices of
the digits' CNN stayed at chance for all passes, which rounds on clients do not do.
"""

UNDO_LAYERS: Final = 8
"""How many layers of a choice are undone each alone, as in verification."""

PROXY: Final = "the proxy samples"
HALF: Final = "half of the test samples, since the data set holds out no proxy samples"

_CPU: Final = torch.device("cpu")
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """What a server has: inputs to distil on, labelled ones to measure on; `source` says which."""

    proxy: SampleDataset
    test: SampleDataset
    source: str


@dataclass(frozen=True)
class Trial:
    """One choice of layers. Accuracies are shares of the test samples.

    `accuracies` after 0, 1, ... passes; `undone` after negating again all of its tensors and those
    of each layer alone, by the tensors' names.
    """

    layers: tuple[str, ...]
    tensors: tuple[str, ...]
    accuracies: tuple[float, ...]
    undone: Mapping[str, float]
    seconds: float = 0.0

    @property
    def recovered(self) -> float:
        """The accuracy after the last pass: the higher, the cheaper recovery should be."""
        return self.accuracies[-1]

    @property
    def restored(self) -> float:
        """The best accuracy that undoing gives: the lower, the deeper it should have forgotten."""
        return max(self.undone.values())


@dataclass(frozen=True)
class DryRun:
    """All choices of one base; `accuracy` is that of the base on the same test samples."""

    spec: BaseSpec
    layers: LayerMap
    source: str
    samples: int
    measured_on: int
    passes: int
    accuracy: float
    trials: tuple[Trial, ...]


def bases_of(cells: Sequence[Cell], only: str = "") -> tuple[BaseSpec, ...]:
    """The bases of cells whose own ids fit a pattern. Raises ConfigError if none does."""
    found = {cell.base.id: cell.base for cell in cells}
    fitting = [key for key in found if not only or fnmatchcase(key, only) or only in key]
    if not fitting:
        raise ConfigError(f"no base fits {only!r}; there are {', '.join(found)}")
    return tuple(found[key] for key in fitting)


def based(out: Path, spec: BaseSpec) -> Base:
    """The trained base of a folder of results. Raises LabError if it is not there."""
    base = bases.found(out, spec)
    if base is None:
        raise LabError(
            f"the base {spec.id} is not in {out}; train it first with `python -m lab run`, with the"
            " same file and --out"
        )
    return base


def played(spec: BaseSpec, base: Base, passes: int = PASSES) -> DryRun:
    """The dry run of a base. Raises LabError if no layer is eligible, DataError, ConfigError."""
    scene = scene_of(spec)
    task, samples = scene.server_task, samples_of(scene)
    initial = initial_model.from_task(task, spec.seed)
    layers = initial.trace()
    found = choices(layers)
    if not found:
        raise LabError(f"the model {spec.model.name} has no layer that may be negated")
    flat = _current(base.folder, initial.manifest)
    trials = []
    for choice in found:
        trial = tried(task, flat, choice, samples, layers, passes=passes, seed=spec.seed)
        _LOG.info("%s: %s in %.1f s", spec.id, ", ".join(trial.layers), trial.seconds)
        trials.append(trial)
    return DryRun(
        spec=spec,
        layers=layers,
        source=samples.source,
        samples=len(samples.proxy),
        measured_on=len(samples.test),
        passes=passes,
        accuracy=accuracy_of(task, flat, samples.test),
        trials=tuple(trials),
    )


def samples_of(scene: Scene) -> Samples:
    """The scene's proxy samples and all test samples; without proxy samples half of the test
    samples (by class and seed) stand in for them, and the other half is measured on.
    """
    test = scene.test
    if scene.proxy is not None:
        return Samples(scene.proxy, test, PROXY)
    of = "test samples to distil on"
    chosen = stratified(test.targets.numpy(), len(test) // 2, scene.spec.seed, of)
    left = np.setdiff1d(np.arange(len(test)), chosen)
    return Samples(test.taken(chosen), test.taken(left), HALF)


def choices(layers: LayerMap) -> tuple[Choice, ...]:
    """The first layers, each layer that is no output layer alone, and the first with each other.

    A pair may be in series, which the product would refuse unless unsafe layers are allowed.
    """
    eligible = [layer for layer in layers.layers if layer.name not in layers.outputs]
    names = layers.holding(layers.first)
    first = [layer.position for layer in eligible if layer.name in names]
    alone = [[layer.position] for layer in eligible]
    pairs = [[*first, layer.position] for layer in eligible if layer.position not in first]
    wanted = [first, *alone, *pairs] if first else alone
    unique = {frozenset(places): places for places in wanted}.values()
    return tuple(
        choose(layers, f"index={','.join(map(str, places))}", allow_unsafe=True)
        for places in unique
    )


def tried(
    task: Task,
    flat: torch.Tensor,
    choice: Choice,
    samples: Samples,
    layers: LayerMap,
    *,
    passes: int = PASSES,
    seed: int = 0,
) -> Trial:
    """Negates a choice in a flat model, lets that teach it what it was, and undoes it.

    Each pass has an optimiser of its own, like a round. Raises ValueError without passes.
    """
    if passes < 1:
        raise ValueError(f"{passes} passes recover nothing; take 1 or more")
    started, manifest = time.monotonic(), Manifest.of(task.build_model())
    student = negated(flat, manifest, choice.tensors)
    accuracies = [accuracy_of(task, student, samples.test)]
    how = Distillation(temperature=TEMPERATURE, epochs=1)
    for number in range(1, passes + 1):
        once = replace(how, seed=1000 * seed + number)
        student = once.distilled(task, flat, student, samples.proxy, manifest, lambda: False)
        accuracies.append(accuracy_of(task, student, samples.test))
    undone = {
        ", ".join(one): accuracy_of(task, negated(student, manifest, one), samples.test)
        for one in undoing(layers, choice.tensors, UNDO_LAYERS).sets
    }
    seconds = time.monotonic() - started
    return Trial(choice.layers, choice.tensors, tuple(accuracies), undone, seconds)


def accuracy_of(task: Task, flat: torch.Tensor, data: SampleDataset) -> float:
    """The accuracy of a flat model on samples."""
    model = task.build_model()
    load_into(model, flat, Manifest.of(model))
    return training.evaluate(task, model, data, _CPU)["accuracy"]


def in_order(trials: Sequence[Trial]) -> tuple[tuple[Trial, float, float], ...]:
    """The choices, the most promising first, each with its ranks by cost and by depth.

    1 is the most accurate after recovery, and the least accurate after undoing; equals share the
    mean rank. The order is that of the ranks' sum, then of cost, then as given.
    """
    cost = ranks([-trial.recovered for trial in trials])
    depth = ranks([trial.restored for trial in trials])
    rows = list(zip(trials, cost, depth, strict=True))
    return tuple(sorted(rows, key=lambda row: (row[1] + row[2], row[1])))


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1 for the least; equals share the mean of theirs."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    return [float(rank) for rank in rankdata(values)]


def _current(folder: Path, manifest: Manifest) -> torch.Tensor:
    """The model of a base, read from a copy of its database: a study may be copying it just now."""
    with tempfile.TemporaryDirectory() as place:
        for path in folder.glob("state.sqlite3*"):
            shutil.copy2(path, place)
        database = Database(Path(place) / "state.sqlite3")
        try:
            version = database.read_now(outcome.current_of)
        finally:
            database.close()
    return outcome.flat_of(folder, manifest, version)
