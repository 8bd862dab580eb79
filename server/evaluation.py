"""Scores of the global model: on the server's own test data, else on the clients'."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import torch

from fednot.data.subset import Subset
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import load_into
from server.cohorts.cohort import Answer, Cohort, Evaluation, Update, WorkPlan
from server.records import Scores

CPU = torch.device("cpu")


FORGOTTEN: Final = "forgotten_"
"""What the metrics over the samples of forgotten classes begin with."""


class ServerEvaluator:
    """Evaluates with the Task on the test data that the server holds.

    What it measures is over the classes that are kept; of the forgotten ones it measures the same
    again under names that begin with "forgotten_", such as "forgotten_accuracy".
    """

    def __init__(self, task: Task, data: SampleDataset) -> None:
        self._task = task
        self._data = data
        self._labels: frozenset[int] = frozenset()
        self._parts: tuple[SampleDataset, SampleDataset | None] = (data, None)

    def forget(self, labels: frozenset[int]) -> None:
        """Says which classes are forgotten from now on."""
        if labels != self._labels:
            self._labels = labels
            self._parts = _parted(self._data, labels)

    async def score(self, flat: torch.Tensor, manifest: Manifest) -> Scores:
        """What the Task's evaluation finds, in a thread of its own."""
        return await asyncio.to_thread(self._score, flat, manifest)

    def _score(self, flat: torch.Tensor, manifest: Manifest) -> Scores:
        model = self._task.build_model()
        load_into(model, flat, manifest)
        retained, forgotten = self._parts
        scores = {}
        if len(retained):
            scores = finite(self._task.evaluate(model, retained, CPU))
        if forgotten is not None and len(forgotten):
            of_forgotten = finite(self._task.evaluate(model, forgotten, CPU))
            scores |= {FORGOTTEN + key: value for key, value in of_forgotten.items()}
        return scores


def _parted(
    data: SampleDataset, labels: frozenset[int]
) -> tuple[SampleDataset, SampleDataset | None]:
    """The samples of the classes that are kept, and those of the labels; None without a label."""
    if not labels:
        return data, None
    is_forgotten = [_target(data, index) in labels for index in range(len(data))]
    kept = [index for index, forgotten in enumerate(is_forgotten) if not forgotten]
    gone = [index for index, forgotten in enumerate(is_forgotten) if forgotten]
    return Subset(data, kept), Subset(data, gone)


def _target(data: SampleDataset, index: int) -> object:
    """The class of a sample, by the dataset's `target` where it has one, which reads no input."""
    target: Callable[[int], object] | None = getattr(data, "target", None)
    found = target(index) if target is not None else data[index][1]
    return int(found) if isinstance(found, torch.Tensor) and found.numel() == 1 else found


async def score_by_clients(cohort: Cohort, plan: WorkPlan) -> Scores:
    """The mean of the clients' metrics, each weighted by its number of examples.

    Empty if no client answered before the deadline.
    """
    scores = WeightedMeans()
    async with aclosing(cohort.work(plan)) as answers:
        async for answer in answers:
            if isinstance(answer, Evaluation):
                scores.add(answer)
    return scores.means()


class WeightedMeans:
    """The means of clients' metrics, each weighted by its number of examples."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._weights: dict[str, int] = {}

    def add(self, answer: Answer) -> None:
        """Adds what a client measured; an answer without metrics adds nothing."""
        if not isinstance(answer, Evaluation | Update):
            return
        for key, value in finite(answer.metrics).items():
            self._totals[key] = self._totals.get(key, 0.0) + value * answer.num_examples
            self._weights[key] = self._weights.get(key, 0) + answer.num_examples

    def means(self) -> dict[str, float]:
        """The mean of each metric over those who measured it."""
        return {key: total / self._weights[key] for key, total in self._totals.items()}


def finite(metrics: Scores) -> dict[str, float]:
    """The metrics without those that are NaN or infinite, which no database or JSON can hold."""
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
