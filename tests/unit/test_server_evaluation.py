"""The server's own test data is split by the classes that are forgotten."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fednot import Task
from fednot.data import InMemoryDataset
from fednot.manifest import Manifest
from server.evaluation import ServerEvaluator


class Sure(Task):
    """Its model answers class 0 whatever it sees."""

    def build_model(self) -> nn.Module:
        model = nn.Linear(1, 3)
        return model


class Unread(InMemoryDataset):
    """Tells its targets without being read."""

    def target(self, index: int) -> int:
        return int(self.targets[index])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        raise AssertionError("the input was read")


def samples(kind: type[InMemoryDataset], *targets: int) -> InMemoryDataset:
    ids = [str(index) for index in range(len(targets))]
    return kind(torch.zeros(len(targets), 1), torch.tensor(targets), ids)


def scores(targets: tuple[int, ...], labels: set[int], kind: Any = InMemoryDataset) -> Any:
    task = Sure()
    manifest = Manifest.of(task.build_model())
    flat = torch.zeros(manifest.nbytes, dtype=torch.uint8)
    flat.view(torch.float32)[3] = 5.0  # the bias of class 0
    evaluator = ServerEvaluator(task, samples(kind, *targets))
    evaluator.forget(frozenset(labels))
    return evaluator._score(flat, manifest)
