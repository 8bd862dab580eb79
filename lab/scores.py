"""The four figures of the paper for one model, and how far two models are apart in them.

Retain, forget and test accuracy and membership inference (paper, section 4; docs/lab.md). None is
good by being high or low: only the distance to retraining counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Final

import numpy as np
import torch

from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import load_into
from lab.membership.population import Values, confidence_attack, confidences, loss_attack

CPU: Final = torch.device("cpu")
FOUR: Final = ("retain", "forget", "test", "mia")


@dataclass(frozen=True)
class Scores:
    """Shares from 0 to 1: three accuracies, the balanced attack (0.5 is guessing), the confidence
    attack (the share of forgotten samples taken for non-members).
    """

    retain: float
    forget: float
    test: float
    mia: float
    mia_confidence: float | None

    def to_dict(self) -> dict[str, float | None]:
        """The figures by name, as a cell's result has them."""
        return asdict(self)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of values, one for each seed; None for a single one."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no values."""
        if not values:
            return None
        mean = sum(values) / len(values)
        if len(values) == 1:
            return cls(mean, None, tuple(values))
        squares = sum((value - mean) ** 2 for value in values)
        return cls(mean, sqrt(squares / (len(values) - 1)), tuple(values))


def score(
    task: Task,
    flat: torch.Tensor,
    *,
    retain: SampleDataset,
    forget: SampleDataset,
    test: SampleDataset,
    seed: int = 0,
    device: torch.device = CPU,
    confidence: bool = True,
) -> Scores:
    """Scores a flat model; the seed settles which samples the attacks draw.

    The losses are the Task's, which must be cross-entropies. Without `confidence` that attack,
    which takes longest, is left out. Raises ValueError for fewer than two samples of a group, or a
    flat model of another size.
    """
    model = task.build_model()
    load_into(model, flat, Manifest.of(model))
    model.to(device)
    losses: list[Values] = []
    accuracies: list[float] = []
    for data in (retain, forget, test):
        found, correct = task.sample_losses(model, data, device)
        if len(correct) < 2:
            raise ValueError("each of retain, forget and test needs at least two samples")
        losses.append(found.numpy().astype(np.float64))
        accuracies.append(float(correct.double().mean()))
    kept, gone, unseen = losses
    sure = [confidences(group) for group in (kept, unseen, gone)]
    attacked = confidence_attack(*sure, seed=seed) if confidence else None
    return Scores(
        retain=accuracies[0],
        forget=accuracies[1],
        test=accuracies[2],
        mia=loss_attack(gone, unseen, seed=seed),
        mia_confidence=attacked,
    )


def gaps(
    scores: Mapping[str, float | None], retrain: Mapping[str, float | None]
) -> dict[str, float]:
    """The absolute distances to retraining of those of the four that both have."""
    found = {}
    for name in FOUR:
        ours, theirs = scores.get(name), retrain.get(name)
        if ours is not None and theirs is not None:
            found[name] = abs(ours - theirs)
    return found


def average_gap(
    scores: Mapping[str, float | None], retrain: Mapping[str, float | None]
) -> float | None:
    """The mean of the four distances; None if one of them cannot be had."""
    found = gaps(scores, retrain)
    return sum(found.values()) / len(FOUR) if len(found) == len(FOUR) else None
