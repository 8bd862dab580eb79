"""FedEraser's calibration sees its share of the batches; MoDE's guidance follows the reference."""

from __future__ import annotations

import pytest
import torch
from support.unlearning_tasks import CPU, Counted, StampsTask, accuracy, built, learned, stamps
from torch import nn

from fednot.data import InMemoryDataset
from fednot.training import TrainContext
from fednot.unlearning.calibration import calibrate
from fednot.unlearning.guidance import Relabelled, guide


@pytest.mark.parametrize(
    ("config", "batches", "samples"),
    [
        ({}, 5, 40),  # half of the ten batches of 8 of one epoch
        ({"calibration": 1.0}, 10, 80),
        ({"calibration": 0.01}, 1, 8),
        ({"local_epochs": 4.0}, 20, 80),  # two whole epochs of four
        ({"local_epochs": 3.0}, 20, 80),  # 1.5, rounded up
        ({"local_epochs": 3.0, "calibration": 0.3}, 10, 80),
    ],
)
def test_a_share_of_the_epochs_or_of_the_only_epochs_batches(
    config: dict[str, float], batches: int, samples: int
) -> None:
    task, context = StampsTask(), TrainContext(CPU, 1, 1, config=config)
    data = Counted(stamps(80), context)
    result = calibrate(task, built(task), data, context, None)
    assert len(data.read) == batches
    assert len({index for batch in data.read for index in batch}) == samples
    assert result.num_examples == 80


def test_another_round_sees_another_half() -> None:
    task = StampsTask()
    seen = []
    for seed in (1, 2):
        context = TrainContext(CPU, seed, 1)
        data = Counted(stamps(80), context)
        calibrate(task, built(task), data, context, None)
        seen.append({index for batch in data.read for index in batch})
    assert seen[0] != seen[1]


class Shifted(nn.Module):
    """Answers with the class after the one that a model answers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.model(images)).roll(1, dims=1)


def test_guidance_follows_the_reference_and_not_the_true_labels() -> None:
    task, data = StampsTask(), stamps(60)
    reference = Shifted(learned(task, data)).eval()
    shifted = InMemoryDataset(data.inputs, (data.targets + 1) % 3, [f"s{i}" for i in range(60)])
    model = learned(task, data)
    assert accuracy(task, model, data) > 0.9
    context = TrainContext(CPU, 1, 1, config={"local_epochs": 15})
    guide(task, model, data, context, reference)
    assert accuracy(task, model, data) < 0.1
    assert accuracy(task, model, shifted) > 0.9


def test_guidance_without_a_reference_says_who_must_send_it() -> None:
    task = StampsTask()
    with pytest.raises(ValueError, match="the server must send the degraded one"):
        guide(task, built(task), stamps(8), TrainContext(CPU, 1, 1), None)


def test_guidance_needs_classes() -> None:
    task = StampsTask()

    class Measured(InMemoryDataset):
        def batch(self, indices: object) -> tuple[torch.Tensor, torch.Tensor]:
            return self.inputs, self.targets.float()

    data = Measured(stamps(8).inputs, stamps(8).targets, [str(index) for index in range(8)])
    with pytest.raises(ValueError, match="guide needs classes"):
        guide(task, built(task), data, TrainContext(CPU, 1, 1), built(task))


def test_relabelled_samples_keep_their_inputs_and_ids() -> None:
    data = stamps(8)
    other = Relabelled(data, torch.arange(8))
    inputs, targets = other.batch([5, 2])
    assert torch.equal(inputs, data.inputs[[5, 2]])
    assert targets.tolist() == [5, 2]
    assert torch.equal(other[3][0], data[3][0])
    assert int(other[3][1]) == 3
    assert other.sample_id(3) == "s3"
    assert len(other) == 8
