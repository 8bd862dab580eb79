"""The four figures of a model whose answers are known, and the arithmetic of gaps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fednot import Task
from fednot.data.in_memory import InMemoryDataset
from fednot.manifest import Manifest
from fednot.tensors import flatten_module
from lab.scores import Spread, average_gap, gaps, score


class Echo(Task):
    """The logits are ten times the input: a sample's two numbers are its answer."""

    def build_model(self) -> nn.Module:
        model = nn.Linear(2, 2, bias=False)
        nn.init.eye_(model.weight)
        with torch.no_grad():
            model.weight.mul_(10)
        return model


def answered(right: int, wrong: int) -> InMemoryDataset:
    rows = [[1.0, 0.0]] * right + [[0.0, 1.0]] * wrong
    ids = [str(number) for number in range(len(rows))]
    return InMemoryDataset(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64), ids)


def flat() -> torch.Tensor:
    model = Echo().build_model()
    return flatten_module(model, Manifest.of(model))


def test_the_scores_of_known_answers() -> None:
    """Right answers lose e^-10, wrong ones 10; forgotten are as often right as test samples.

    The confidence is 1 or 0. The machine learns from 20 right retained samples and 20 test samples,
    about ten of them right, that a right answer is a member's: half of the forgotten are not.
    """
    found = score(
        Echo(), flat(), retain=answered(20, 0), forget=answered(300, 300), test=answered(300, 300)
    )
    assert (found.retain, found.forget, found.test) == (1.0, 0.5, 0.5)
    assert found.mia == pytest.approx(0.5, abs=0.1)
    assert found.mia_confidence == 0.5


def test_forgotten_samples_that_are_remembered_are_told_from_test_samples() -> None:
    found = score(
        Echo(), flat(), retain=answered(20, 0), forget=answered(20, 0), test=answered(0, 20)
    )
    assert found.mia == 1.0
    assert found.mia_confidence == 0.0


def test_a_group_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two samples"):
        score(Echo(), flat(), retain=answered(5, 0), forget=answered(1, 0), test=answered(5, 0))


def test_the_average_gap_of_the_papers_rows() -> None:
    """CIFAR-10/CNN: fine-tune (0.82 + 2.51 + 0.04 + 0.67) / 4 = 1.01; NoT 1.17 / 4 = 0.2925."""
    retrain = {"retain": 91.66, "forget": 83.05, "test": 82.32, "mia": 50.23}
    tuned = {"retain": 92.48, "forget": 85.56, "test": 82.36, "mia": 50.90}
    negated = {"retain": 91.69, "forget": 83.86, "test": 82.65, "mia": 50.23}
    assert average_gap(tuned, retrain) == pytest.approx(1.01)
    assert average_gap(negated, retrain) == pytest.approx(0.2925)
    assert average_gap(retrain, retrain) == 0


def test_a_gap_that_cannot_be_had_makes_no_average() -> None:
    found = {"retain": 0.5, "forget": None, "test": 0.5, "mia": 0.5}
    other = {"retain": 0.25, "forget": 0.5, "test": 0.75, "mia": 0.5}
    assert gaps(found, other) == {"retain": 0.25, "test": 0.25, "mia": 0.0}
    assert average_gap(found, other) is None


def test_mean_and_sample_deviation() -> None:
    """Of 1, 2, 3, 4: mean 2.5, squares 2.25 + 0.25 + 0.25 + 2.25 = 5, over 3."""
    found = Spread.of([1.0, 2.0, 3.0, 4.0])
    assert found is not None
    assert found.mean == 2.5
    assert found.deviation == pytest.approx((5 / 3) ** 0.5)
    assert Spread.of([7.0]) == Spread(7.0, None, (7.0,))
    assert Spread.of([]) is None
