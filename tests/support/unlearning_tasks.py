"""Tiny Tasks and made data for the tests of the works."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

import fednot
from fednot.data import InMemoryDataset
from fednot.training import TrainContext

CPU = torch.device("cpu")


class Stamps(nn.Module):
    """A convolution with BatchNorm, then a linear layer of 6 features, then logits of 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.hidden = nn.Linear(4 * 16, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(images))), 2)
        logits: torch.Tensor = self.head(torch.relu(self.hidden(seen.flatten(1))))
        return logits


class StampsTask(fednot.Task):
    """Images [1, 8, 8] of a bright row, whose place is the class."""

    batch_size = 8

    def build_model(self) -> nn.Module:
        return Stamps()


def stamps(size: int, seed: int = 0) -> InMemoryDataset:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (size,), generator=generator)
    images = torch.randn(size, 1, 8, 8, generator=generator) * 0.3
    images[torch.arange(size), 0, 2 * targets + 1] += 1.0
    return InMemoryDataset(images, targets, [f"s{index}" for index in range(size)])


class Counted(InMemoryDataset):
    """Keeps the indices of each batch that is read; sets `stop` at the `last`-th of them."""

    def __init__(self, data: InMemoryDataset, context: TrainContext, last: int = 0) -> None:
        super().__init__(data.inputs, data.targets, [data.sample_id(i) for i in range(len(data))])
        self.read: list[list[int]] = []
        self._context = context
        self._last = last

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        self.read.append(list(indices))
        if len(self.read) == self._last:
            self._context.cancelled.set()
        return super().batch(indices)


def built(task: fednot.Task, seed: int = 3) -> nn.Module:
    """A model whose weights follow from the seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return task.build_model()


def learned(task: fednot.Task, data: InMemoryDataset, epochs: int = 15) -> nn.Module:
    """A model that has learned the data."""
    model = built(task)
    task.train(model, data, TrainContext(CPU, 1, 1, config={"local_epochs": epochs}))
    return model


def flat(model: nn.Module) -> torch.Tensor:
    """All of the state dict as one vector of float64."""
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def accuracy(task: fednot.Task, model: nn.Module, data: InMemoryDataset) -> float:
    return float(task.evaluate(model, data, CPU)["accuracy"])
