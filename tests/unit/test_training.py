"""The default loops: the seed decides, overrides count, cancellation stops, scores are means."""

import math

import pytest
import torch
from torch import nn

import fednot
from fednot import training
from fednot.data import InMemoryDataset
from fednot.training import TrainContext, WorkCancelledError

CPU = torch.device("cpu")


class LineTask(fednot.Task):
    batch_size = 4

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 3))


class FixedModel(nn.Module):
    """Says class 0 with the logits that it is given."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


def blobs(size: int) -> InMemoryDataset:
    inputs = torch.randn(size, 2, generator=torch.Generator().manual_seed(0))
    targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    return InMemoryDataset(inputs, targets, [str(index) for index in range(size)])


def trained(seed: int, **config: float) -> tuple[torch.Tensor, fednot.TrainResult]:
    task = LineTask()
    torch.manual_seed(9)
    model = task.build_model()
    result = task.train(model, blobs(10), TrainContext(CPU, seed, 1, config=config))
    return torch.cat([p.detach().flatten() for p in model.parameters()]), result


def test_the_seed_alone_decides_and_the_global_generator_is_left_alone() -> None:
    first, _ = trained(1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = LineTask().build_model()
    torch.manual_seed(5)
    LineTask().train(model, blobs(10), TrainContext(CPU, 1, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(trained(1)[0], first)
    assert not torch.equal(trained(2)[0], first)


def test_the_largest_seed_of_the_wire_is_taken() -> None:
    assert trained(2**64 - 1)[1].num_examples == 10


def test_overrides_count() -> None:
    """A learning rate of 0 changes nothing; 0 momentum, more epochs, other batches do."""
    still, result = trained(1, learning_rate=0.0)
    torch.manual_seed(9)
    untouched = torch.cat([p.detach().flatten() for p in LineTask().build_model().parameters()])
    assert torch.equal(still, untouched)
    assert result.num_examples == 10
    default = trained(1)[0]
    for name, value in {
        "momentum": 0,
        "local_epochs": 2,
        "batch_size": 10,
        "weight_decay": 1,
    }.items():
        assert not torch.equal(trained(1, **{name: value})[0], default), name


@pytest.mark.parametrize("config", [{"local_epochs": 0.0}, {"batch_size": 0.0}])
def test_overrides_that_make_no_sense_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        trained(1, **config)


def test_no_samples_are_refused() -> None:
    empty = InMemoryDataset(torch.zeros(0, 2), torch.zeros(0), [])
    task = LineTask()
    with pytest.raises(ValueError, match="0 samples"):
        task.train(task.build_model(), empty, TrainContext(CPU, 1, 1))
    with pytest.raises(ValueError, match="no samples"):
        task.evaluate(task.build_model(), empty, CPU)


def test_cancellation_stops_before_the_next_batch() -> None:
    task, context = LineTask(), TrainContext(CPU, 1, 4)
    context.cancelled.set()
    with pytest.raises(WorkCancelledError, match="round 4 is over"):
        task.train(task.build_model(), blobs(10), context)


def test_scores_are_means_over_all_samples() -> None:
    """Three of four are class 0 and each sample's logits are (ln 3, 0), that is, p = (3/4, 1/4).

    Accuracy and chance are 3/4; the loss is -(3 ln(3/4) + ln(1/4)) / 4.
    """
    logits = torch.tensor([[math.log(3), 0.0]]).repeat(4, 1)
    data = InMemoryDataset(logits, torch.tensor([0, 0, 1, 0]), list("abcd"))
    scores = training.evaluate(LineTask(), FixedModel(), data, CPU)
    assert scores["accuracy"] == scores["chance"] == 0.75
    assert scores["loss"] == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)


def test_batches_keep_the_order_and_the_last_is_shorter() -> None:
    data = blobs(6)
    found = list(training.batches(data, [4, 0, 5, 3, 1], 3))
    assert [len(targets) for _, targets in found] == [3, 2]
    assert torch.equal(found[0][0], data.inputs[[4, 0, 5]])
    assert torch.equal(found[1][1], data.targets[[3, 1]])


@pytest.mark.parametrize(("size", "sizes"), [(1, [1]), (8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2])])
def test_a_single_last_sample_joins_the_batch_before_it(size: int, sizes: list[int]) -> None:
    """BatchNorm cannot train on one sample."""
    data = InMemoryDataset(torch.zeros(size, 1), torch.zeros(size), [str(i) for i in range(size)])
    assert [len(targets) for _, targets in training.batches(data, list(range(size)), 4)] == sizes
