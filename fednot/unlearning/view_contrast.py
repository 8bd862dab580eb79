"""The work `train-contrast`: recovery on retained data with a contrastive term on features.

Source: CoUn (Khalil et al. 2025, "CoUn: Empowering Machine Unlearning via Contrastive Learning",
arXiv 2509.16391): learn on retained data by labels and, without labels, by contrast, so that what
is to be forgotten falls where its likeness to the retained data puts it. The loss is
Task.loss + weight * NT-Xent.

| setting | default | what |
|---|---|---|
| weight | 1 | of the contrastive term; 0 is Task.train itself |
| contrast_temperature | 0.5 | of NT-Xent, as SimCLR has it on CIFAR-10 |
| views | 2 | 2: two random views; 1: the batch as it is, and one view (cheaper) |
| padding | 4 | pixels of zeros around the image before the crop |
| flip | 0 | 1: mirror half of the views, where left and right do not matter |

Ours, since only a part of CoUn's text was at hand: weight and temperature; the contrast is taken on
the input of the last linear layer without a projection head; labels are learned from the batch as
it is and not from a view; crops and flips are the only augmentation. Optimiser, learning rate,
epochs and batch size are the Task's. The views pass through BatchNorm in training mode as well, so
they count in its statistics. Cost: `views` more passes, 3 or 2 times that of plain training;
memory: [2 * batch, 2 * batch].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from fednot.task import SampleDataset, Task
from fednot.training import Plan, TrainContext, TrainResult, batch_of
from fednot.unlearning.alone import alone
from fednot.unlearning.features import Forward, featured
from fednot.unlearning.views import Augmentation, alikeness
from fednot.unlearning.work_settings import Setting, values

SETTINGS: Final[Mapping[str, Setting]] = {
    "weight": Setting(1.0),
    "contrast_temperature": Setting(0.5, 1e-6),
    "views": Setting(2, 1, 2),
    "padding": Setting(4, 0, 64),
    "flip": Setting(0, 0, 1),
}


def train_contrast(
    task: Task,
    model: nn.Module,
    data: SampleDataset,
    context: TrainContext,
    reference: nn.Module | None,
) -> TrainResult:
    """Trains by labels and by contrast; measures the mean of each loss. `reference` is not used.

    Raises ValueError if the inputs are no images or the model has no linear layer.
    """
    given = values("train-contrast", context, SETTINGS)
    if given["weight"] == 0:
        return task.train(model, data, context)
    mine = alone(task)
    plan = Plan.of(mine, data, context)
    optimiser = plan.optimiser(model)
    model.train()
    sums = torch.zeros(2, dtype=torch.float64)
    with featured(model) as forward, torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        losses = _Losses(mine, forward, given, torch.Generator().manual_seed(context.seed))
        for indices in plan.batches():
            context.check()
            inputs, targets = (each.to(context.device) for each in batch_of(data, indices))
            optimiser.zero_grad()
            labelled, contrasted = losses.of(inputs, targets)
            torch.autograd.backward(labelled + given["weight"] * contrasted)
            optimiser.step()
            each = torch.stack([labelled.detach(), contrasted.detach()]).cpu().double()
            sums += each * len(indices)
    means = (sums / (plan.epochs * len(data))).tolist()
    return TrainResult(len(data), {"loss": means[0], "contrast": means[1]})


@dataclass(frozen=True)
class _Losses:
    """The two terms of a batch's loss."""

    task: Task
    forward: Forward
    given: Mapping[str, float]
    generator: torch.Generator

    def of(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The Task's loss, and NT-Xent between two views of the inputs."""
        augmentation = Augmentation(int(self.given["padding"]), self.given["flip"] > 0)
        outputs, features = self.forward(inputs)
        labelled = self.task.loss(outputs, targets)
        views = [augmentation.view(inputs, self.generator) for _ in range(int(self.given["views"]))]
        seen = torch.split(self.forward(torch.cat(views))[1], len(inputs))
        pair = seen if len(seen) == 2 else (features, seen[0])
        return labelled, alikeness(pair[0], pair[1], self.given["contrast_temperature"])
