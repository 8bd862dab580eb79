"""What holds for every work: the seed decides, cancellation stops, odd models stay in order."""

from __future__ import annotations

import math

import pytest
import torch
from support.unlearning_tasks import CPU, Counted, StampsTask, built, flat, learned, stamps
from torch import nn
from torch.nn.utils import parametrizations

import fednot
from fednot.distributed import Led, Ranks
from fednot.errors import FednotError, Reason
from fednot.training import TrainContext, TrainResult, WorkCancelledError
from fednot.unlearning import WORKS, work_named

CONFIG = {
    "share": 0.2,
    "ascent_epochs": 2.0,
    "contrast_iterations": 12.0,
    "contrast_learning_rate": 1e-3,
}
STAMPS = StampsTask()


@pytest.fixture(params=list(WORKS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def done(
    name: str, task: fednot.Task, model: nn.Module, seed: int = 7, **config: float
) -> TrainResult:
    context = TrainContext(CPU, seed, 1, config=CONFIG | config)
    reference = built(task, 11).eval() if name == "guide" else None
    return work_named(name)(task, model, stamps(40), context, reference)


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(FednotError, match="'climb', only train, calibrate, ascend") as caught:
        work_named("climb")
    assert caught.value.reason is Reason.UNKNOWN_METHOD


def test_the_seed_alone_decides_and_the_global_generator_is_left_alone(name: str) -> None:
    results = []
    for seed in (7, 7, 8):
        model = built(STAMPS)
        torch.manual_seed(len(results))
        expected = torch.random.get_rng_state()
        done(name, STAMPS, model, seed)
        assert torch.equal(torch.random.get_rng_state(), expected)
        results.append(flat(model))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_model_is_changed_and_all_examples_count(name: str) -> None:
    model = built(STAMPS)
    result = done(name, STAMPS, model)
    assert not torch.equal(flat(model), flat(built(STAMPS)))
    assert result.num_examples == 40
    assert all(math.isfinite(value) for value in result.metrics.values())


@pytest.mark.parametrize("last", [1, 4])
def test_cancellation_stops_within_a_batch(name: str, last: int) -> None:
    context = TrainContext(CPU, 7, 4, config=CONFIG | {"batch_size": 4.0})
    data = Counted(stamps(40), context, last)
    with pytest.raises(WorkCancelledError, match="round 4 is over"):
        work_named(name)(STAMPS, built(STAMPS), data, context, built(STAMPS).eval())
    assert len(data.read) <= last + 1


def test_no_samples_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="0 samples"):
        work_named(name)(
            STAMPS, built(STAMPS), stamps(0), TrainContext(CPU, 1, 1, config=CONFIG), built(STAMPS)
        )


@pytest.mark.parametrize("name", ["guide", "unlearn-contrast", "train-contrast"])
def test_under_torchrun_what_others_cannot_share_is_done_by_rank_0_alone(name: str) -> None:
    """The other ranks read labels of their own data, so they would train on the true ones."""
    led = Led(STAMPS, Ranks(None, 0, 2, CPU), stamps(40), lambda: None)
    found, expected = built(STAMPS), built(STAMPS)
    done(name, led, found)
    done(name, STAMPS, expected)
    assert torch.equal(flat(found), flat(expected))


class Odd(nn.Module):
    """A weight that two layers share, one that is computed, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(64)
        self.third = parametrizations.weight_norm(nn.Linear(64, 8))
        self.frozen = nn.Parameter(torch.ones(64), requires_grad=False)
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = self.norm(self.second(torch.relu(self.first(images.flatten(1) * self.frozen))))
        logits: torch.Tensor = self.head(torch.relu(self.third(seen)))
        return logits


class OddTask(StampsTask):
    def build_model(self) -> nn.Module:
        return Odd()


def test_tied_computed_and_frozen_weights_and_integer_buffers_stay_in_order(name: str) -> None:
    task = OddTask()
    model = built(task)
    assert isinstance(model, Odd)
    done(name, task, model)
    assert model.second.weight is model.first.weight
    assert torch.equal(model.frozen, torch.ones(64))
    assert model.norm.num_batches_tracked.dtype is torch.int64
    again = built(task, 99)
    again.load_state_dict(model.state_dict())
    images = stamps(10).inputs
    assert torch.equal(again.eval()(images), model.eval()(images))
    assert bool(torch.isfinite(model(images)).all())


@pytest.mark.parametrize("name", ["ascend", "unlearn-contrast"])
def test_buffers_are_those_that_came(name: str) -> None:
    """The statistics of BatchNorm must not be the target's; `train` below does change them."""
    model, given = learned(STAMPS, stamps(40)), learned(STAMPS, stamps(40))
    done(name, STAMPS, model)
    for new, old in zip(model.buffers(), given.buffers(), strict=True):
        assert torch.equal(new, old)
    done("train", STAMPS, model)
    assert not torch.equal(next(model.buffers()), next(given.buffers()))


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("calibrate", "calibration", 0.0),
        ("calibrate", "calibration", 1.5),
        ("ascend", "ascent_clip", -1.0),
        ("ascend", "stop_distance", math.nan),
        ("unlearn-contrast", "low_frequencies", 2.0),
        ("train-contrast", "weight", math.inf),
    ],
)
def test_settings_out_of_range_are_refused(name: str, setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting} of {name} is .*; give a number from"):
        done(name, STAMPS, built(STAMPS), **{setting: value})
