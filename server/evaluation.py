"""Scores of the global model: on the server's own test data, else on the clients'."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing

import torch

from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import load_into
from server.cohorts.cohort import Answer, Cohort, Evaluation, Update, WorkPlan
from server.records import Scores

CPU = torch.device("cpu")


class ServerEvaluator:
    """Evaluates with the Task on the test data that the server holds."""

    def __init__(self, task: Task, data: SampleDataset) -> None:
        self._task = task
        self._data = data

    async def score(self, flat: torch.Tensor, manifest: Manifest) -> Scores:
        """What the Task's evaluation finds, in a thread of its own."""
        return await asyncio.to_thread(self._score, flat, manifest)

    def _score(self, flat: torch.Tensor, manifest: Manifest) -> Scores:
        model = self._task.build_model()
        load_into(model, flat, manifest)
        return finite(self._task.evaluate(model, self._data, CPU))


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
