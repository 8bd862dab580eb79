"""The work `guide`: training towards what a second model answers, in place of the true targets.

Source: MoDE (Zhao et al., IEEE Internet of Things Journal 2023, "Federated Unlearning With Momentum
Degradation"), memory guidance: the client to be forgotten trains on the pseudo-labels
argmax M_de(x) of the degraded model M_de, while the retained ones train on their own labels. The
authors' code was not found; the loop follows FedQUIT's.

There are no settings of its own: learning rate, epochs and batch size are the Task's or the run's
(FedQUIT guides with a learning rate of 5e-4). Ours: labels are taken once, before training, so data
that is augmented at random is labelled by the first draw. Buffers are as in Task.train. Cost: the
local epochs and one forward pass over the data; memory: one label a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fednot.task import SampleDataset, Task
from fednot.training import Plan, TrainContext, TrainResult, batch_of, parts
from fednot.unlearning.alone import alone


class Relabelled:
    """A dataset under its own ids with other targets, int64 of shape [N, ...]."""

    def __init__(self, data: SampleDataset, targets: torch.Tensor) -> None:
        self._data = data
        self._targets = targets

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        """The sample's input and its other target."""
        return self._data[index][0], self._targets[index]

    def sample_id(self, index: int) -> str:
        """The id that the sample has in the dataset."""
        return self._data.sample_id(index)

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Stacked inputs and the other targets, as fast as the dataset gives the inputs."""
        return batch_of(self._data, indices)[0], self._targets[list(indices)]


def guide(
    task: Task,
    model: nn.Module,
    data: SampleDataset,
    context: TrainContext,
    reference: nn.Module | None,
) -> TrainResult:
    """Task.train on the answers of `reference`.

    Raises ValueError without a reference, or if it does not answer with classes.
    """
    if reference is None:
        raise ValueError("guide needs a reference model; the server must send the degraded one")
    mine = alone(task)
    labels = pseudo_labels(reference, data, Plan.of(mine, data, context).batch_size, context)
    return mine.train(model, Relabelled(data, labels), context)


@torch.no_grad()
def pseudo_labels(
    reference: nn.Module, data: SampleDataset, batch_size: int, context: TrainContext
) -> torch.Tensor:
    """The class of the largest output for each sample, int64 [N] on the CPU."""
    found = []
    for indices in parts(list(range(len(data))), batch_size):
        context.check()
        inputs, targets = batch_of(data, indices)
        outputs = reference(inputs.to(context.device))
        if targets.is_floating_point() or outputs.dim() != targets.dim() + 1:
            raise ValueError(
                f"guide needs classes as targets and logits [N, classes] as outputs, not"
                f" {targets.dtype} and {list(outputs.shape)}; use another method for this Task"
            )
        found.append(outputs.argmax(dim=1).cpu())
    return torch.cat(found)
