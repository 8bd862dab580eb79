"""FCU's work: features move to the downgraded model's; the fusion keeps what it says."""

from __future__ import annotations

import math

import pytest
import torch
from support.unlearning_tasks import CPU, StampsTask, built, flat, learned, stamps
from torch import nn

from fednot.training import TrainContext
from fednot.unlearning.features import featured
from fednot.unlearning.frequencies import fused, fuses
from fednot.unlearning.model_contrast import Fusion, contrast, unlearn_contrast

FAST = {"contrast_learning_rate": 3e-3, "contrast_iterations": 60.0}


def alike(first: nn.Module, second: nn.Module) -> float:
    """The mean cosine of two models' features of the target's samples."""
    images = stamps(60).inputs
    with featured(first.eval()) as one, featured(second.eval()) as other, torch.no_grad():
        z, y = one(images)[1], other(images)[1]
    return float(nn.functional.cosine_similarity(z, y).mean())


def unlearned(model: nn.Module, reference: nn.Module | None = None, **config: float) -> float:
    context = TrainContext(CPU, 1, 1, config=FAST | config)
    result = unlearn_contrast(StampsTask(), model, stamps(60), context, reference)
    return result.metrics["loss"]


def test_features_move_to_the_downgraded_models_and_off_the_given_ones() -> None:
    task, data = StampsTask(), stamps(60)
    model, given, downgraded = learned(task, data), learned(task, data), built(task, 5)
    before = alike(model, downgraded)
    unlearned(model, downgraded)
    assert alike(model, downgraded) > before + 0.1
    assert alike(model, given) < 0.9


def test_the_downgraded_model_is_a_fresh_one_by_the_seed() -> None:
    task, data = StampsTask(), stamps(60)
    torch.manual_seed(2)  # the first fresh model of the seed 1
    fresh = task.build_model()
    by_itself, told = learned(task, data), learned(task, data)
    unlearned(by_itself)
    unlearned(told, fresh)
    assert torch.equal(flat(by_itself), flat(told))


def test_the_loss_by_hand() -> None:
    """Cosines of 0 with the given and 1 with the downgraded model's, temperature 1/2: logits 0, 2.

    Its mirror image has logits 2, 0.
    """
    z = torch.tensor([[1.0, 0.0]])
    good = contrast(z, torch.tensor([[0.0, 3.0]]), torch.tensor([[2.0, 0.0]]), 0.5)
    bad = contrast(z, torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]), 0.5)
    assert float(good) == pytest.approx(math.log(1 + math.exp(-2)))
    assert float(bad) == pytest.approx(math.log(1 + math.exp(2)))


def test_whose_low_frequencies_are_kept() -> None:
    """An empty window keeps nothing of the model that the low ones are from."""
    given = flat(built(StampsTask()))
    moved, kept = built(StampsTask()), built(StampsTask())
    unlearned(moved, low_frequencies=0.0)
    unlearned(kept, low_frequencies=0.0, low_from_unlearned=1.0)
    assert not torch.allclose(flat(moved), given, atol=1e-4)
    assert torch.allclose(flat(kept), given, atol=1e-5)


@pytest.mark.parametrize(("iterations", "fusions"), [(10, 1), (25, 3), (3, 1)])
def test_it_fuses_at_each_interval_and_at_the_end(
    iterations: int, fusions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    monkeypatch.setattr(Fusion, "fuse", lambda _: done.append(1))
    unlearned(built(StampsTask()), contrast_iterations=iterations)
    assert len(done) == fusions


def test_fusion_brings_back_what_has_no_frequencies() -> None:
    model, given = built(StampsTask(), 1), built(StampsTask(), 2)
    Fusion(model, given, 0.7, low_from_unlearned=False).fuse()
    new, old, other = (m.state_dict() for m in (model, given, built(StampsTask(), 1)))
    for name in ("conv.bias", "norm.weight", "norm.running_mean", "head.bias"):
        assert torch.equal(new[name], old[name])
    for name in ("conv.weight", "hidden.weight"):
        assert not torch.allclose(new[name], old[name])
        assert not torch.allclose(new[name], other[name])


@pytest.mark.parametrize("shape", [(6, 5), (4, 8), (5, 3, 3, 3), (4, 2, 3), (3, 2, 2, 3, 2)])
def test_a_window_of_all_or_none_gives_one_or_the_others_amplitudes(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(4)
    low, high = (torch.randn(shape, generator=generator).double() for _ in range(2))
    assert torch.allclose(fused(low, high, 0.0), high)
    assert torch.allclose(fused(high, high, 0.5), high)
    everything = fused(low, high, 1.0)
    assert torch.allclose(amplitudes(everything), amplitudes(low))
    assert not torch.allclose(everything, low)


def amplitudes(weight: torch.Tensor) -> torch.Tensor:
    """Of the 2-D transform of the matrix (C*D1, D2*...*N), written out apart from the code's."""
    if weight.dim() > 2:
        order = [*range(1, weight.dim()), 0]
        weight = weight.permute(order).reshape(weight.shape[1] * weight.shape[2], -1)
    return torch.fft.fft2(weight).abs()


def test_a_convolutions_plane_is_c_d1_by_d2_n() -> None:
    """A weight that is constant over D1 and C only has frequencies along D2*N, and keeps them."""
    weight = torch.zeros(4, 2, 3, 5)
    weight[1, :, :, 2] = 1.0  # column d2 * N + n = 2 * 4 + 1 of the plane [6, 20]
    plane = torch.zeros(6, 20)
    plane[:, 9] = 1.0
    other = torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    as_plane = other.permute(1, 2, 3, 0).reshape(6, 20)
    mixed = fused(weight, other, 0.5).permute(1, 2, 3, 0).reshape(6, 20)
    assert torch.allclose(mixed, fused(plane, as_plane, 0.5), atol=1e-6)


def test_a_hand_made_weight_keeps_the_low_and_takes_the_high_frequencies() -> None:
    """High: a checkerboard (the highest frequency) of mean 1; low: 5 everywhere. Half of 4 is the
    window of k = -1, 0, 1, so the mean is the low one's and the checkerboard stays."""
    board = torch.tensor([[1.0, -1.0] * 2, [-1.0, 1.0] * 2] * 2)
    mixed = fused(torch.full((4, 4), 5.0), board + 1, 0.5)
    assert torch.allclose(mixed, board + 5, atol=1e-5)


def test_the_window_by_frequency() -> None:
    """Ratio 1/2 of 8 rows and 12 columns: |k| up to 2 and up to 3 are the low model's."""
    generator = torch.Generator().manual_seed(4)
    low, high = (torch.randn(8, 12, generator=generator).double() for _ in range(2))
    mixed, of_low, of_high = (torch.fft.fft2(w).abs() for w in (fused(low, high, 0.5), low, high))
    for row in range(8):
        for column in range(12):
            inside = min(row, 8 - row) <= 2 and min(column, 12 - column) <= 3
            expected = of_low if inside else of_high
            assert float(mixed[row, column]) == pytest.approx(float(expected[row, column]))


def test_what_has_frequencies() -> None:
    assert fuses(torch.zeros(3, 2))
    assert not fuses(torch.zeros(7))
    assert not fuses(torch.zeros(7, 1, 1, 1))  # the sizes that weight_norm keeps


def test_a_model_without_a_linear_layer_is_refused() -> None:
    class Convolved(StampsTask):
        def build_model(self) -> nn.Module:
            return nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())

    task = Convolved()
    with pytest.raises(ValueError, match=r"runs no nn\.Linear"):
        unlearn_contrast(task, built(task), stamps(8), TrainContext(CPU, 1, 1), None)


class HeadFirst(nn.Module):
    """Registers its last layer first, and calls it by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.body = nn.Linear(2, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(input=torch.relu(self.body(inputs)))
        return logits


def test_features_are_what_the_last_layer_that_runs_is_given() -> None:
    model, inputs = HeadFirst(), torch.randn(5, 2)
    with featured(model) as forward:
        outputs, features = forward(inputs)
    assert torch.equal(features, torch.relu(model.body(inputs)))
    assert torch.equal(outputs, model(inputs))
    assert not model.head._forward_pre_hooks


def test_features_that_are_no_rows_of_samples_are_refused() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.head(inputs.flatten(0, 1)))

    with featured(Rows()) as forward, pytest.raises(ValueError, match=r"\[10, 2\] for 5 samples"):
        forward(torch.randn(5, 2, 2))
