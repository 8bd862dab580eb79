"""The default training and evaluation loops for classification."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import torch
from torch import nn

if TYPE_CHECKING:
    from fednot.task import SampleDataset, Task


class WorkCancelledError(Exception):
    """The round that the training was for is over."""


@dataclass(frozen=True)
class TrainContext:
    """What one piece of training work comes with.

    `config` holds the run's overrides of hyper-parameters, such as {"local_epochs": 2};
    `cancelled` is set when the round is over; `phase` is "training", "recovery" or "verification".
    Under torchrun `rank` of `world_size` processes train one update (`fednot.distributed`).
    """

    device: torch.device
    seed: int
    round: int
    phase: str = "training"
    config: Mapping[str, float] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)
    rank: int = 0
    world_size: int = 1

    def check(self) -> None:
        """Raises WorkCancelledError if the round is over; call it at least once a batch."""
        if self.cancelled.is_set():
            raise WorkCancelledError(f"round {self.round} is over")


@dataclass(frozen=True)
class TrainResult:
    """How many examples an update was trained on, and what training measured."""

    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How a piece of work is trained: the Task's hyper-parameters with the run's overrides."""

    size: int
    batch_size: int
    epochs: int
    seed: int
    optimiser_values: Mapping[str, Any]

    @classmethod
    def of(cls, task: Task, data: SampleDataset, context: TrainContext) -> Self:
        """Raises ValueError if there is nothing to train on."""
        batch_size = int(context.config.get("batch_size", task.batch_size))
        epochs = int(context.config.get("local_epochs", task.local_epochs))
        if not len(data) or batch_size < 1 or epochs < 1:
            raise ValueError(
                f"{len(data)} samples, batch_size {batch_size} and local_epochs {epochs} must all "
                "be at least 1"
            )
        values = {
            "lr": context.config.get("learning_rate", task.learning_rate),
            "momentum": context.config.get("momentum", task.momentum),
            "weight_decay": context.config.get("weight_decay", task.weight_decay),
        }
        return cls(len(data), batch_size, epochs, context.seed, values)

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD over the model's parameters."""
        return torch.optim.SGD(model.parameters(), **self.optimiser_values)

    def batches(self) -> Iterator[list[int]]:
        """The indices of each batch of each epoch, shuffled; the order follows from the seed."""
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epochs):
            order = torch.randperm(self.size, generator=generator).tolist()
            yield from parts(order, self.batch_size)


def train(task: Task, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
    """Trains with SGD over shuffled batches; the order follows from the seed alone.

    Raises WorkCancelledError when the round is over, ValueError if there is nothing to train on.
    """
    plan = Plan.of(task, data, context)
    optimiser = plan.optimiser(model)
    model.train()
    total = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        for indices in plan.batches():
            inputs, targets = batch_of(data, indices)
            context.check()
            optimiser.zero_grad()
            outputs = model(inputs.to(context.device))
            loss = task.loss(outputs, targets.to(context.device))
            torch.autograd.backward(loss)
            optimiser.step()
            total += float(loss.detach()) * len(targets)
    return TrainResult(len(data), {"loss": total / (plan.epochs * len(data))})


@torch.no_grad()
def evaluate(
    task: Task, model: nn.Module, data: SampleDataset, device: torch.device
) -> dict[str, float]:
    """Mean loss, accuracy, and the accuracy of the best constant guess ("chance").

    Raises ValueError if there are no samples.
    """
    if not len(data):
        raise ValueError("there are no samples to evaluate on")
    model.eval()
    loss, correct = 0.0, 0
    counts: dict[int, int] = {}
    for inputs, targets in batches(data, list(range(len(data))), 256):
        outputs = model(inputs.to(device))
        on_device = targets.to(device)
        loss += float(task.loss(outputs, on_device)) * len(targets)
        correct += int((outputs.argmax(dim=1) == on_device).sum())
        for target in targets.tolist():
            counts[target] = counts.get(target, 0) + 1
    size = len(data)
    return {
        "loss": loss / size,
        "accuracy": correct / size,
        "chance": max(counts.values()) / size,
    }


@torch.no_grad()
def sample_losses(
    task: Task, model: nn.Module, data: SampleDataset, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each sample's loss, float64 [N] on the CPU, and whether the largest output is its class."""
    model.eval()
    losses: list[torch.Tensor] = []
    correct: list[torch.Tensor] = []
    for inputs, targets in batches(data, list(range(len(data))), 256):
        outputs, on_device = model(inputs.to(device)), targets.to(device)
        for row in range(len(targets)):
            one = slice(row, row + 1)
            losses.append(task.loss(outputs[one], on_device[one]).double().cpu().reshape(1))
        correct.append((outputs.argmax(dim=1) == on_device).cpu())
    if not losses:
        return torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.bool)
    return torch.cat(losses), torch.cat(correct)


@runtime_checkable
class BatchedDataset(Protocol):
    """A dataset that gives many samples at once, faster than one by one."""

    def batch(self, indices: Sequence[int], /) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets stacked in the order of the indices, equal to the single samples."""
        ...


def batches(
    data: SampleDataset, order: list[int], batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields inputs and targets stacked over the batch, in the given order of indices."""
    for indices in parts(order, batch_size):
        yield batch_of(data, indices)


def parts(order: list[int], batch_size: int) -> Iterator[list[int]]:
    """Cuts an order of indices into batches.

    A single last sample joins the batch before it: BatchNorm cannot train on one sample.
    """
    ends = list(range(batch_size, len(order), batch_size))
    if ends and len(order) - ends[-1] == 1:
        ends.pop()
    for start, end in pairwise([0, *ends, len(order)]):
        yield order[start:end]


def batch_of(data: SampleDataset, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets at the indices, stacked; a dataset's own `batch` is used if it has one."""
    if isinstance(data, BatchedDataset):
        return data.batch(indices)
    samples = [data[index] for index in indices]
    return (
        torch.stack([sample[0] for sample in samples]),
        torch.stack([torch.as_tensor(sample[1]) for sample in samples]),
    )
