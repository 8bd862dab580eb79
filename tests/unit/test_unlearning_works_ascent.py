"""PGD's work: the reference model, the ball and its projection, the climb, the stop."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from support.unlearning_tasks import CPU, StampsTask, accuracy, learned, stamps
from torch import nn

import fednot
from fednot.data import InMemoryDataset
from fednot.task import SampleDataset
from fednot.training import TrainContext, TrainResult
from fednot.unlearning.ascent import Ball, ascend, guess_loss


class Slope(nn.Module):
    """Two weights whose sum is the output, whatever the input."""

    def __init__(self, weights: tuple[float, float]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.weights.sum() * torch.ones_like(inputs)


class SlopeTask(fednot.Task):
    """Its loss is the sum of the weights, with the gradient (1, 1); training gives (3, 0)."""

    batch_size = 10

    def __init__(self, *fresh: tuple[float, float]) -> None:
        self._fresh: Iterator[tuple[float, float]] = iter(fresh)

    def build_model(self) -> nn.Module:
        return Slope(next(self._fresh))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.mean()

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        with torch.no_grad():
            next(model.parameters()).copy_(torch.tensor([3.0, 0.0]))
        return TrainResult(len(data))


ONES = InMemoryDataset(torch.ones(10, 1), torch.zeros(10), [str(index) for index in range(10)])


def climbed(*fresh: tuple[float, float], **config: float) -> tuple[list[float], dict[str, float]]:
    """From w = (2, 0), with w_u = (3, 0) and a share of 1/2: w_ref = ((2, 0) - (3, 0)/2) * 2."""
    settings = {"share": 0.5, "random_models": float(len(fresh)), "ascent_momentum": 0.0}
    context = TrainContext(CPU, 1, 1, config=settings | config)
    model = Slope((2.0, 0.0))
    result = ascend(SlopeTask(*fresh), model, ONES, context, None)
    return model.weights.tolist(), dict(result.metrics)


def test_it_starts_from_the_others_mean() -> None:
    """w_ref = (1, 0); five epochs of one step along (1, 1) at a rate of 0.1 end in (1.5, 0.5)."""
    weights, metrics = climbed((1.0, 6.0), ascent_learning_rate=0.1)
    assert weights == pytest.approx([1.5, 0.5])
    assert metrics["steps"] == 5
    assert metrics["loss"] == pytest.approx((1.0 + 1.2 + 1.4 + 1.6 + 1.8) / 5)


@pytest.mark.parametrize(
    ("fresh", "squared"),
    [
        (((1.0, 6.0),), 36 / 3),  # one fresh model at a squared distance of 36
        (((1.0, 6.0), (1.0, 0.0)), 18 / 3),  # the mean of 36 and 0
        (((4.0, 4.0), (1.0, 0.0), (1.0, 0.0)), 25 / 9),
    ],
)
def test_the_ball_is_a_third_of_the_mean_squared_distance_to_fresh_models(
    fresh: tuple[tuple[float, float], ...], squared: float
) -> None:
    """Steps of 1000 would leave it: the result is on its surface, straight along (1, 1)."""
    weights, metrics = climbed(*fresh, ascent_learning_rate=1000.0)
    radius = math.sqrt(squared)
    assert metrics["radius"] == pytest.approx(radius)
    along = radius / math.sqrt(2)
    assert weights == pytest.approx([1 + along, along], rel=1e-5)


def test_the_gradient_is_clipped() -> None:
    """A norm of sqrt(2) becomes sqrt(2)/10: each step is 0.1 along (1, 1)."""
    weights, _ = climbed(
        (1.0, 60.0), ascent_learning_rate=1.0, ascent_clip=math.sqrt(2) / 10, ascent_epochs=3
    )
    assert weights == pytest.approx([1.3, 0.3], rel=1e-4)


def test_it_stops_by_the_squared_distance_to_the_local_model() -> None:
    """After k steps of (1, 1) from (1, 0) it is (k - 2)^2 + k^2 from (3, 0): 2, 4, 10, 20, 34."""
    for bound, steps, distance in ((1.0, 1, 2), (5.0, 3, 10), (0.0, 5, 34)):
        _, metrics = climbed((1.0, 90.0), ascent_learning_rate=1.0, stop_distance=bound)
        assert metrics["steps"] == steps
        assert metrics["distance"] == pytest.approx(distance)


def test_it_stops_where_the_model_guesses_before_it_destroys_it() -> None:
    """Without that stop the loss goes on to rise until the epochs are over."""
    task, data = StampsTask(), stamps(60)
    losses, steps = [], []
    for stop in (1.0, 0.0):
        model = learned(task, data, 2)
        config = {"share": 0.1, "ascent_learning_rate": 0.05, "stop_loss": stop}
        result = ascend(task, model, data, TrainContext(CPU, 1, 1, config=config), None)
        losses.append(task.evaluate(model, data, CPU)["loss"])
        steps.append(result.metrics["steps"])
    assert 0.5 < losses[0] < losses[1] / 4
    assert steps[0] < steps[1] == 5 * 8  # 60 samples are 8 batches of 8


def test_the_loss_of_a_guess() -> None:
    assert guess_loss(torch.zeros(8, 4), 2.0) == pytest.approx(2 * math.log(4))
    assert guess_loss(torch.zeros(8, 4), 0.0) == math.inf
    assert guess_loss(torch.zeros(8, 1), 1.0) == math.inf
    assert guess_loss(torch.zeros(8, 4, 2), 1.0) == math.inf


def test_without_others_there_is_nothing_to_start_from() -> None:
    with pytest.raises(ValueError, match="with a share of 1, retrain"):
        climbed((1.0, 6.0), share=1.0)
    with pytest.raises(ValueError, match="ascend needs share"):
        ascend(SlopeTask(), Slope((2.0, 0.0)), ONES, TrainContext(CPU, 1, 1), None)


def test_projection_leaves_what_is_inside() -> None:
    """A point at (3, 4) goes to the surface of radius 1 at (0.6, 0.8), over all tensors at once."""
    ball = Ball([torch.zeros(1), torch.zeros(1)], 1.0)
    outside = [torch.tensor([3.0]), torch.tensor([4.0])]
    ball.project(outside)
    assert [float(x) for x in outside] == pytest.approx([0.6, 0.8])
    inside = [torch.tensor([0.5]), torch.tensor([0.5])]
    ball.project(inside)
    assert [float(x) for x in inside] == [0.5, 0.5]


def test_the_targets_loss_rises_and_the_ball_holds() -> None:
    """A model with BatchNorm that has learned the target's samples unlearns them."""
    task, data = StampsTask(), stamps(60)
    model, given = learned(task, data, 2), learned(task, data, 2)
    config = {"share": 0.1, "ascent_learning_rate": 0.1, "learning_rate": 0.0, "stop_loss": 0.0}
    result = ascend(task, model, data, TrainContext(CPU, 1, 1, config=config), None)
    before, after = (task.evaluate(m, data, CPU) for m in (given, model))
    assert before["accuracy"] > 0.9
    assert after["loss"] > before["loss"] + 1
    assert accuracy(task, model, data) < 0.6
    # With a local learning rate of 0 the local model, and so w_ref, is the given one.
    pairs = zip(model.parameters(), given.parameters(), strict=True)
    moved = math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in pairs))
    assert 0 < moved <= result.metrics["radius"] * (1 + 1e-5)
