"""The work `train`: the Task's own training, as in any round. Cost: the Task's local epochs."""

from __future__ import annotations

from torch import nn

from fednot.task import SampleDataset, Task
from fednot.training import TrainContext, TrainResult


def train(
    task: Task,
    model: nn.Module,
    data: SampleDataset,
    context: TrainContext,
    reference: nn.Module | None,
) -> TrainResult:
    """Task.train; `reference` is not used."""
    return task.train(model, data, context)
