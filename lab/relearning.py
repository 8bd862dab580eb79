"""How fast a model relearns what it was to forget, from a small part of it.

A model that has really forgotten needs as long as one that never saw the data. That one exists only
where the deletion was simulated, so this belongs to the lab and not to a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from fednot.data.subset import Subset
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import load_into
from fednot.training import TrainContext

CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Relearning:
    """The accuracy on the forgotten samples that were not shown, after 0, 1, 2, ... passes."""

    accuracies: tuple[float, ...]

    def passes_to(self, accuracy: float) -> int | None:
        """The passes until the accuracy was first reached; None if it never was."""
        reached = (i for i, value in enumerate(self.accuracies) if value >= accuracy)
        return next(reached, None)

    @property
    def area(self) -> float:
        """The mean accuracy over the passes: the higher, the faster it relearns."""
        return sum(self.accuracies) / len(self.accuracies)


def relearn(
    task: Task,
    flat: torch.Tensor,
    forgotten: SampleDataset,
    *,
    share: float = 0.1,
    passes: int = 10,
    seed: int = 0,
    config: Mapping[str, float] | None = None,
) -> Relearning:
    """Trains a flat model on a share of the forgotten samples, one pass at a time.

    Both parts are drawn by the seed, so that two models are shown the same. `config` overrides
    hyper-parameters as a run does. Raises ValueError if a part would be empty.
    """
    shown, rest = _parts(forgotten, share, seed)
    model = task.build_model()
    load_into(model, flat, Manifest.of(model))
    accuracies = [task.evaluate(model, rest, CPU)["accuracy"]]
    for number in range(1, passes + 1):
        values = {**(config or {}), "local_epochs": 1}
        context = TrainContext(CPU, seed=seed + number, round=number, config=values)
        task.train(model, shown, context)
        accuracies.append(task.evaluate(model, rest, CPU)["accuracy"])
    return Relearning(tuple(accuracies))


def advantage(model: Relearning, never_saw: Relearning) -> float:
    """By how much a model relearns faster than one that never saw the data; 0 if it does not."""
    return max(0.0, model.area - never_saw.area)


def _parts(data: SampleDataset, share: float, seed: int) -> tuple[Subset, Subset]:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    size = round(share * len(data))
    if not 0 < size < len(data):
        raise ValueError(f"a share of {share:g} of {len(data)} samples leaves a part empty")
    return Subset(data, order[:size]), Subset(data, order[size:])
