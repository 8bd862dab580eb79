"""The server's own test data is split by the classes that are forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from torch import nn

from fednot import Task
from fednot.data import InMemoryDataset
from fednot.manifest import Manifest
from fednot.tensors import flatten_module
from server.evaluation import ServerEvaluator


class Sure(Task):
    """A model of three classes."""

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 3)


class Unread(InMemoryDataset):
    """Tells its targets without being read."""

    def target(self, index: int) -> int:
        return int(self.targets[index])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        raise AssertionError("the input was read")


def samples(kind: type[InMemoryDataset], *targets: int) -> InMemoryDataset:
    ids = [str(index) for index in range(len(targets))]
    return kind(torch.zeros(len(targets), 1), torch.tensor(targets), ids)


class Ignorant(Sure):
    """Evaluates by the targets alone."""

    def evaluate(self, model: nn.Module, data: Any, device: torch.device) -> dict[str, float]:
        return {"size": float(len(data))}


def scores(
    targets: tuple[int, ...],
    labels: set[int],
    kind: type[InMemoryDataset] = InMemoryDataset,
    task: Task | None = None,
) -> dict[str, float]:
    """Of a model that answers class 0 whatever it sees, with these classes forgotten."""
    task = task or Sure()
    model = task.build_model()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    next(reversed(list(model.parameters()))).data[0] = 5.0
    manifest = Manifest.of(model)
    evaluator = ServerEvaluator(task, samples(kind, *targets))
    evaluator.forget(frozenset(labels))
    return dict(asyncio.run(evaluator.score(flatten_module(model, manifest), manifest)))


def test_nothing_forgotten_is_one_evaluation() -> None:
    found = scores((0, 0, 1, 2), set())
    assert found["accuracy"] == 0.5
    assert not [name for name in found if name.startswith("forgotten_")]


def test_metrics_are_over_the_classes_that_are_kept() -> None:
    found = scores((0, 0, 1, 2), {1})
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["forgotten_accuracy"] == 0.0
    assert scores((0, 0, 1, 2), {0})["forgotten_accuracy"] == 1.0


def test_a_forgotten_class_without_test_samples_leaves_no_metric() -> None:
    assert scores((0, 0, 1), {2}) == scores((0, 0, 1), set())


def test_test_data_of_forgotten_classes_alone_scores_nothing_that_is_kept() -> None:
    found = scores((1, 1), {1})
    assert "accuracy" not in found
    assert found["forgotten_accuracy"] == 0.0


def test_a_dataset_that_tells_its_targets_is_not_read_to_be_split() -> None:
    found = scores((0, 1, 1), {1}, Unread, Ignorant())
    assert found == {"size": 1.0, "forgotten_size": 2.0}


def test_a_class_that_is_lifted_is_kept_again() -> None:
    evaluator = ServerEvaluator(Ignorant(), samples(InMemoryDataset, 0, 1))
    model = Ignorant().build_model()
    manifest = Manifest.of(model)
    found = []
    for labels in ({1}, set[int]()):
        evaluator.forget(frozenset(labels))
        found.append(
            asyncio.run(evaluator.score(flatten_module(model, manifest), manifest))["size"]
        )
    assert found == [1.0, 2.0]
