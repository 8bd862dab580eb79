"""DP-SGD: clipping, noise, sampling, and which models it refuses."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from torch import nn

import fednot
from fednot import zoo
from fednot.data import InMemoryDataset
from fednot.privacy import randomness, sgd, suitability
from fednot.privacy.costs import Noise, PrivacyError, Steps
from fednot.training import Plan, TrainContext, WorkCancelledError

ALMOST_NONE = 1e-9


class Line(fednot.Task):
    """One weight, whose loss is minus input times weight: its gradient is minus the input."""

    batch_size = 4
    learning_rate = 1.0
    momentum = 0.0

    def build_model(self) -> nn.Module:
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        return model

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -outputs.mean()


def of_ones() -> nn.Linear:
    """A layer whose weight is far from what a tolerance would take for nothing."""
    layer = nn.Linear(1, 1)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What is drawn for a test is the same each time, whatever ran before it."""
    torch.manual_seed(0)


class Mixing(nn.Module):
    """Takes the batch's mean off each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = of_ones()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(inputs - inputs.mean(dim=0))
        return outputs


class Gated(nn.Module):
    """Adds the batch's mean through a gate that is closed before training."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate = of_ones(), of_ones()
        nn.init.zeros_(self.gate.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(inputs) + self.gate(inputs.mean(dim=0, keepdim=True))
        return outputs


class Counting(nn.Module):
    """Keeps the largest input in a buffer, as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.register_buffer("largest", torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.largest = torch.maximum(self.largest, inputs.max()).detach()
        outputs: torch.Tensor = self.layer(inputs)
        return outputs


class Sequences(nn.Module):
    """Takes the batch for a sequence: the second sample's output holds the first one's input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = of_ones()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(inputs.cumsum(0))
        return outputs


def points(*values: float) -> InMemoryDataset:
    inputs = torch.tensor(values).view(-1, 1)
    names = [str(index) for index in range(len(values))]
    return InMemoryDataset(inputs, torch.zeros(len(values), dtype=torch.int64), names)


def context(**config: float) -> TrainContext:
    return TrainContext(torch.device("cpu"), seed=5, round=1, config=config)


def test_each_samples_gradient_is_clipped_before_they_are_summed() -> None:
    """Four samples in one batch, each drawn for certain: 3, 100, -0.5 and 0 are clipped to 2 each.

    The step is their sum over four: (2 + 2 - 0.5 + 0) / 4 = 0.875. Clipping the mean would give 2.
    """
    task = Line()
    model = task.build_model()
    sgd.train(task, model, points(3, 100, -0.5, 0), context(), Noise(ALMOST_NONE, 2.0))
    assert model.weight.item() == pytest.approx(0.875, abs=1e-5)


def test_a_step_without_samples_is_noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgd, "poisson_batch", lambda size, rate: [])
    task = Line()
    model = task.build_model()
    sgd.train(task, model, points(*[5.0] * 8), context(), Noise(1.0, 1.0))
    assert model.weight.item() != 0


def test_the_noise_has_its_size_and_follows_from_no_seed() -> None:
    """Samples of zero gradient, 50 trainings of one step: the weights are the noise over 4.

    Their standard deviation is 2 * 3 / 4 = 1.5; that of a sample deviation of 400 numbers is 3.5 %.
    Two of 400 float32 may be equal by chance; a seed would repeat far more.
    """
    task = Line()
    found = []
    for _ in range(400):
        model = task.build_model()
        sgd.train(task, model, points(0, 0, 0, 0), context(), Noise(2.0, 3.0))
        found.append(model.weight.item())
    assert len(set(found)) > 390
    assert torch.tensor(found).std() == pytest.approx(1.5, rel=0.25)


def test_a_round_tells_nothing_but_how_many_examples_there_are() -> None:
    task = Line()
    result = sgd.train(task, task.build_model(), points(*[1.0] * 9), context(), Noise(1.0, 1.0))
    assert (result.num_examples, dict(result.metrics)) == (9, {})


def test_the_model_is_left_as_it_was_found() -> None:
    task = Line()
    model = task.build_model()
    sgd.train(task, model, points(1, 2), context(), Noise(1.0, 1.0))
    assert not hasattr(model.weight, "grad_sample")
    assert not model._forward_hooks
    assert list(model.state_dict()) == ["weight"]
    sgd.train(task, model, points(1, 2), context(), Noise(1.0, 1.0))


def test_training_ends_when_its_round_is_over() -> None:
    over = context()
    over.cancelled.set()
    task = Line()
    with pytest.raises(WorkCancelledError):
        sgd.train(task, task.build_model(), points(1, 2), over, Noise(1.0, 1.0))


def test_a_buffer_that_learns_is_refused() -> None:
    task = Line()
    with pytest.raises(PrivacyError, match="the buffer largest"):
        sgd.train(task, Counting(), points(1, 2), context(), Noise(1.0, 1.0))


@pytest.mark.parametrize(
    ("size", "batch_size", "epochs", "rate", "count"),
    [(10, 4, 1, 0.4, 3), (10, 4, 3, 0.4, 9), (3, 32, 2, 1.0, 2), (8, 4, 1, 0.5, 2)],
)
def test_the_steps_of_a_plan(
    size: int, batch_size: int, epochs: int, rate: float, count: int
) -> None:
    """As many steps as batches; a batch of 4 of 10 samples holds each with probability 0.4."""
    config = {"batch_size": float(batch_size), "local_epochs": float(epochs)}
    plan = Plan.of(Line(), points(*[1.0] * size), context(**config))
    assert Steps.of(plan, Noise(1.0, 1.0)) == Steps(Noise(1.0, 1.0), rate, count)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_noise_is_positive(value: float) -> None:
    with pytest.raises(PrivacyError, match="positive"):
        Noise(value, 1.0)
    with pytest.raises(PrivacyError, match="positive"):
        Noise(1.0, value)


def test_gaussian_numbers_are_standard_and_fill_their_shape() -> None:
    """Of 300,001 numbers: mean within 6/sqrt(n), variance and the share within one deviation."""
    drawn = randomness.gaussian((300_001,), 2.0) / 2
    assert drawn.dtype is torch.float64
    assert abs(float(drawn.mean())) < 0.011
    assert float(drawn.var()) == pytest.approx(1, abs=0.02)
    assert float((drawn.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.006)
    assert randomness.gaussian((2, 0, 3), 1.0).shape == (2, 0, 3)
    assert randomness.gaussian((), 1.0).shape == ()


def test_poisson_batches_take_each_sample_by_itself() -> None:
    """2,000 samples at 0.3 are 600 on average, with deviation 20.5; the count differs by batch."""
    sizes = [len(randomness.poisson_batch(2000, 0.3)) for _ in range(20)]
    assert all(450 < size < 750 for size in sizes)
    assert len(set(sizes)) > 1
    assert randomness.poisson_batch(3, 1.0) == [0, 1, 2]


def test_a_model_without_faults_is_taken() -> None:
    convolutions = nn.Sequential(
        nn.Conv1d(1, 2, 1), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(2, 2)
    )
    data = InMemoryDataset(torch.randn(2, 1, 1), torch.zeros(2, dtype=torch.int64), ["a", "b"])
    suitability.check(fednot.Task(), convolutions, data)
    assert not any(hasattr(each, "grad_sample") for each in convolutions.parameters())


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)), "BatchNorm"),
        (nn.Sequential(nn.Linear(1, 2), nn.Sequential(nn.BatchNorm1d(2))), "BatchNorm"),
        (Mixing(), "depends on the others"),
        (nn.Sequential(nn.Dropout(0.5), Mixing()), "depends on the others"),
        (Sequences(), "depends on the others"),
        (Gated(), "depends on the others"),
        (nn.Sequential(nn.Dropout(0.5), Gated()), "depends on the others"),
    ],
)
def test_a_model_that_mixes_samples_is_refused(model: nn.Module, fault: str) -> None:
    with pytest.raises(PrivacyError, match=fault):
        suitability.check(Line(), model, points(1, 2))


def test_a_layer_that_sees_features_where_samples_should_be_is_refused() -> None:
    """Opacus takes a layer's first dimension for the batch. With two samples of two features each
    the gradients have the right shape, and are those of the features over both samples."""

    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.layer(inputs.t().unsqueeze(-1))
            return outputs.squeeze(-1).t()

    def of(features: int) -> InMemoryDataset:
        inputs = torch.arange(2.0 * features).view(2, features)
        return InMemoryDataset(inputs, torch.zeros(2, dtype=torch.int64), ["a", "b"])

    with pytest.raises(PrivacyError, match=r"is not its own at 1\.layer\.weight"):
        suitability.check(Line(), nn.Sequential(nn.Dropout(0.5), Transposed()), of(2))
    with pytest.raises(PrivacyError, match=r"is not its own at layer\.weight"):
        suitability.check(Line(), Transposed(), of(2))
    with pytest.raises(PrivacyError, match=r"no gradient of single samples for layer\.weight"):
        suitability.check(Line(), Transposed(), of(3))


def test_a_parameter_without_gradients_of_samples_is_refused() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(1, 1), nn.Linear(1, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.used(inputs)
            return outputs

    with pytest.raises(PrivacyError, match=r"unused\.weight"):
        suitability.check(Line(), Unused(), points(1, 2))


@pytest.mark.parametrize(
    ("model", "shape", "taken"),
    [
        (zoo.Cnn(), (1, 28, 28), True),
        (zoo.Mlp(), (1, 28, 28), True),
        (zoo.ResNet18(), (3, 32, 32), False),
        (zoo.VisionTransformer(), (3, 32, 32), False),
    ],
)
def test_which_models_of_the_zoo_can_be_trained_so(
    model: nn.Module, shape: tuple[int, ...], *, taken: bool
) -> None:
    targets = torch.zeros(2, dtype=torch.int64)
    data = InMemoryDataset(torch.randn(2, *shape), targets, ["a", "b"])
    with contextlib.nullcontext() if taken else pytest.raises(PrivacyError):
        suitability.check(fednot.Task(), model, data)
