"""The work `ascend`: projected gradient ascent on the target, near a model of the others.

Source: PGD (Halimi et al. 2022, "Federated Unlearning: How to Efficiently Erase a Client in FL?",
arXiv 2207.05521) and its authors' notebook (IBM/federated-unlearning). The target makes
w_ref = (w - share * w_u) / (1 - share), the mean of the other clients' models, and climbs its own
loss from there, within a ball around w_ref.

| setting | default | what |
|---|---|---|
| share | none, sent by the server | n_u over the sum of n: the target's weight in w; 0 to below 1 |
| ascent_learning_rate, ascent_momentum | 0.01, 0.9 | SGD, no weight decay |
| ascent_clip | 5 | largest norm of a step's gradient |
| ascent_epochs | 5 | at most so many passes over the target's data |
| radius_share, random_models | 1/3, 10 | delta^2 = radius_share * mean ||w_ref - w_random||^2 |
| stop_loss | 1 | stop at a batch whose loss is over so many times log(classes); 0: never |
| stop_distance | 0 (never) | stop once ||w - w_u||^2 exceeds it (notebook: 2.2, an MNIST CNN) |

Ours: w_u is trained from w by Task.train now, since nobody kept the target's last local model. The
notebook's threshold and distances are squared, and so are ours. The paper stops when validation
accuracy falls below a bound, and the notebook by the distance to w_u; its 2.2 fits one model, so
here the loss of the batch before its step decides, and the bound is the loss of a guess, as of a
model that never learned. Without a stop the ascent goes on to the ball's surface, and what is left
was seen not to recover. Buffers (BatchNorm's statistics) do not count in distances, follow the data
while the ascent runs, and are w's in the result. Cost: the local epochs, then at most
`ascent_epochs` epochs; memory: three models beside the trained one, in turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import nn

from fednot.task import SampleDataset, Task
from fednot.training import Plan, TrainContext, TrainResult, batch_of
from fednot.unlearning.alone import alone
from fednot.unlearning.copies import (
    copied,
    fresh_models,
    named,
    put,
    squared_distance,
    trainable,
)
from fednot.unlearning.work_settings import Setting, values

SETTINGS: Final[Mapping[str, Setting]] = {
    "share": Setting(None, 0.0, 1.0),
    "ascent_learning_rate": Setting(0.01),
    "ascent_momentum": Setting(0.9, 0.0, 1.0),
    "ascent_clip": Setting(5.0, 1e-9),
    "ascent_epochs": Setting(5, 1),
    "radius_share": Setting(1 / 3),
    "random_models": Setting(10, 1),
    "stop_loss": Setting(1.0),
    "stop_distance": Setting(0.0),
}


@dataclass(frozen=True)
class Ball:
    """The parameters within `radius` (L2, over all of them) of `centre`."""

    centre: Sequence[torch.Tensor]
    radius: float

    @torch.no_grad()
    def project(self, parameters: Sequence[torch.Tensor]) -> None:
        """Moves parameters outside of the ball to its surface, straight towards the centre."""
        distance = math.sqrt(squared_distance(parameters, self.centre))
        if distance > self.radius:
            for parameter, centre in zip(parameters, self.centre, strict=True):
                parameter.copy_(centre + (parameter - centre) * (self.radius / distance))


def ascend(
    task: Task,
    model: nn.Module,
    data: SampleDataset,
    context: TrainContext,
    reference: nn.Module | None,
) -> TrainResult:
    """Leaves w_ref after the ascent in the model; `reference` is not used.

    Measures the mean loss of the ascent's batches, its steps, the ball's radius, and the squared
    distance to w_u. Raises ValueError for a share of 1: then there are no others.
    """
    given = values("ascend", context, SETTINGS)
    if given["share"] >= 1:
        raise ValueError("ascend needs other clients; with a share of 1, retrain instead")
    moved = list(trainable(model).values())
    start, buffers = copied(moved), copied(model.buffers())
    task.train(model, data, context)
    local = copied(moved)
    put(moved, others_mean(start, local, given["share"]))
    put(model.buffers(), buffers)
    del start
    ball = Ball(copied(moved), _radius(task, model, context, given))
    climb = _Climb(alone(task), model, ball, local, given)
    metrics = climb.run(data, context)
    put(model.buffers(), buffers)
    return TrainResult(len(data), metrics)


def others_mean(
    mean: Sequence[torch.Tensor], local: Sequence[torch.Tensor], share: float
) -> list[torch.Tensor]:
    """(mean - share * local) / (1 - share): what the mean is without one of its terms."""
    return [(a - share * b) / (1 - share) for a, b in zip(mean, local, strict=True)]


def guess_loss(outputs: torch.Tensor, times: float) -> float:
    """`times` the cross-entropy of a uniform guess, log(C), for logits [N, C].

    Infinite for other outputs, whose loss has no such mark, and if `times` is 0.
    """
    if times == 0 or outputs.dim() != 2 or outputs.shape[1] < 2:
        return math.inf
    return times * math.log(outputs.shape[1])


def _radius(
    task: Task, model: nn.Module, context: TrainContext, given: Mapping[str, float]
) -> float:
    """The square root of a share of the mean squared distance from the model to fresh ones."""
    parameters = trainable(model)
    here = [parameter.detach().cpu() for parameter in parameters.values()]
    count = int(given["random_models"])
    total = sum(
        squared_distance(here, named(fresh, parameters))
        for fresh in fresh_models(task, context, count)
    )
    return math.sqrt(given["radius_share"] * total / count)


@dataclass(frozen=True)
class _Climb:
    """Gradient ascent on a model's loss within a ball; `local` is w_u, from which it moves away."""

    task: Task
    model: nn.Module
    ball: Ball
    local: Sequence[torch.Tensor]
    given: Mapping[str, float]

    def run(self, data: SampleDataset, context: TrainContext) -> dict[str, float]:
        """Climbs until the epochs are over or a stop is reached; gives the metrics."""
        epochs = int(self.given["ascent_epochs"])
        plan = replace(Plan.of(self.task, data, context), epochs=epochs)
        moved = list(trainable(self.model).values())
        optimiser = torch.optim.SGD(
            moved, lr=self.given["ascent_learning_rate"], momentum=self.given["ascent_momentum"]
        )
        losses: list[float] = []
        distance = squared_distance(moved, self.local)
        self.model.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            for indices in plan.batches():
                context.check()
                climbing = self._step(optimiser, moved, batch_of(data, indices), context)
                if climbing is None:
                    break
                losses.append(climbing)
                distance = squared_distance(moved, self.local)
                if 0 < self.given["stop_distance"] < distance:
                    break
        return {
            "loss": sum(losses) / max(1, len(losses)),
            "steps": float(len(losses)),
            "radius": self.ball.radius,
            "distance": distance,
        }

    def _step(
        self,
        optimiser: torch.optim.Optimizer,
        moved: Sequence[torch.Tensor],
        batch: tuple[torch.Tensor, torch.Tensor],
        context: TrainContext,
    ) -> float | None:
        """The loss before one step; None if the model guesses already, so that no step was made."""
        inputs, targets = (tensor.to(context.device) for tensor in batch)
        optimiser.zero_grad()
        outputs = self.model(inputs)
        loss = self.task.loss(outputs, targets)
        if float(loss.detach()) > guess_loss(outputs, self.given["stop_loss"]):
            return None
        torch.autograd.backward(-loss)
        nn.utils.clip_grad_norm_(moved, self.given["ascent_clip"])
        optimiser.step()
        self.ball.project(moved)
        return float(loss.detach())
