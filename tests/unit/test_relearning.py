"""A model that saw the data relearns it faster than one that never did."""

from __future__ import annotations

import pytest
import torch

from fednot import Task
from fednot.data.in_memory import InMemoryDataset
from fednot.data.mnist5k import mnist5k
from fednot.manifest import Manifest
from fednot.tensors import flatten_module
from fednot.training import TrainContext
from fednot.zoo.mlp import Mlp
from lab.relearning import Relearning, advantage, relearn

CPU = torch.device("cpu")


class Digits(Task):
    learning_rate = 0.02

    def build_model(self) -> torch.nn.Module:
        return Mlp(hidden=(32,))


def digits(*classes: int) -> InMemoryDataset:
    """Of 1,500 digits those of the classes."""
    found = mnist5k()
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))[:1500]
    kept = order[torch.isin(found.targets[order], torch.tensor(classes))]
    ids = [found.sample_id(int(i)) for i in kept]
    return InMemoryDataset(found.inputs[kept], found.targets[kept], ids)


def trained_on(*classes: int) -> torch.Tensor:
    task = Digits()
    torch.manual_seed(0)
    model = task.build_model()
    task.train(model, digits(*classes), TrainContext(CPU, 1, 1, config={"local_epochs": 6}))
    return flatten_module(model, Manifest.of(model))


def test_who_saw_the_sevens_relearns_them_faster() -> None:
    sevens = digits(7)
    saw = relearn(Digits(), trained_on(*range(10)), sevens, passes=4)
    never = relearn(Digits(), trained_on(0, 1, 2, 3, 4, 5, 6, 8, 9), sevens, passes=4)
    assert saw.accuracies[0] > 0.7 > 0.1 > never.accuracies[0]
    assert advantage(saw, never) > 0.1
    assert advantage(never, saw) == 0.0
    assert advantage(never, never) == 0.0


def test_the_passes_until_an_accuracy() -> None:
    found = Relearning((0.1, 0.5, 0.4, 0.9))
    assert found.passes_to(0.5) == 1
    assert found.passes_to(0.6) == 3
    assert found.passes_to(0.95) is None
    assert found.area == pytest.approx(0.475)


def test_a_part_that_would_be_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves a part empty"):
        relearn(Digits(), torch.empty(0, dtype=torch.uint8), digits(7), share=0.0)
