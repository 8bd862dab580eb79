"""All that a client computes: on CUDA it is what it is on the CPU, up to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.unlearning_tasks import CPU, StampsTask, built, flat, stamps
from torch import nn

from client.device import Device
from client.profiling import LookedAt
from client.trainer import Trainer
from fednot import zoo
from fednot.data import InMemoryDataset
from fednot.manifest import Manifest
from fednot.privacy import sgd
from fednot.privacy.costs import Noise
from fednot.tensors import flatten_module, views
from fednot.tombstones import Tombstones
from fednot.training import TrainContext, TrainResult
from fednot.unlearning import WORKS, work_named
from fednot.v1.federation_pb2 import SAMPLE_GROUP_RETAINED, ProfileWork

NEAR = 0.05
"""The distance allowed between two updates, as a share of the length of the CPU's."""
SHORT = {"share": 0.2, "ascent_epochs": 1.0, "contrast_iterations": 4.0}
MODELS = {
    "cnn": zoo.Cnn(in_channels=3, image_size=8, widths=(2, 3), hidden=4, num_classes=3),
    "resnet": zoo.ResNet18(width=2, num_classes=3),
    "vit": zoo.VisionTransformer(
        image_size=8, patch=4, num_classes=3, dim=8, depth=2, heads=2, head_dim=4, mlp_dim=8
    ),
}


class Taking(StampsTask):
    """Takes twice the memory of the device before it trains, and writes down where it worked."""

    def __init__(self) -> None:
        self.devices: list[str] = []

    def train(self, model: nn.Module, data: Any, context: TrainContext) -> TrainResult:
        self.devices.append(context.device.type)
        if context.device.type == "cuda":
            room = torch.cuda.get_device_properties(context.device).total_memory
            torch.empty(2 * room, dtype=torch.uint8, device=context.device)
        return super().train(model, data, context)


def trainer(task: StampsTask, device: torch.device, fallen: list[torch.device]) -> Trainer:
    manifest = Manifest.of(task.build_model())
    held = Device(device, fallen.append)
    return Trainer(task, manifest, stamps(40), stamps(20, 1), held, Tombstones(Path("nowhere")))


def context(device: torch.device) -> TrainContext:
    return TrainContext(device, seed=5, round=1, config=SHORT)


def assert_near(found: torch.Tensor, expected: torch.Tensor, start: torch.Tensor) -> None:
    moved = (expected - start).norm()
    assert moved > 0
    assert (found.cpu() - expected).norm() <= NEAR * moved


def weights(task: StampsTask, flat_model: torch.Tensor) -> torch.Tensor:
    """The float32 weights of a flat model or update, as one vector."""
    tensors = views(flat_model, Manifest.of(task.build_model())).values()
    return torch.cat([each.flatten() for each in tensors if each.dtype == torch.float32])


def test_an_update_and_its_scores_are_those_of_the_cpu(cuda: torch.device) -> None:
    task, fallen = StampsTask(), list[torch.device]()
    there, here = trainer(task, cuda, fallen), trainer(task, CPU, fallen)
    given = flatten_module(built(task), here.manifest)
    on_cuda, on_cpu = there.train(given, context(CPU)), here.train(given, context(CPU))
    assert on_cuda.flat.device.type == "cpu"
    found, expected = weights(task, on_cuda.flat), weights(task, on_cpu.flat)
    assert_near(found, expected, torch.zeros_like(expected))
    assert there.evaluate(given).metrics == pytest.approx(here.evaluate(given).metrics, rel=1e-3)
    assert fallen == []


def test_the_losses_by_which_a_deletion_is_verified_are_those_of_the_cpu(
    cuda: torch.device,
) -> None:
    task = StampsTask()
    looked_at = LookedAt.of(ProfileWork(groups=[SAMPLE_GROUP_RETAINED]))
    there, here = trainer(task, cuda, []), trainer(task, CPU, [])
    given = flatten_module(built(task), here.manifest)
    found = there.profile(given, looked_at)[SAMPLE_GROUP_RETAINED]
    expected = here.profile(given, looked_at)[SAMPLE_GROUP_RETAINED]
    assert found.size == expected.size == 40
    assert abs(found.num_correct - expected.num_correct) <= 1
    assert found.losses.mean() == pytest.approx(expected.losses.mean(), rel=0.05)


def test_nothing_stays_on_the_device_when_the_work_is_done(cuda: torch.device) -> None:
    task = StampsTask()
    there = trainer(task, cuda, [])
    given = flatten_module(built(task), there.manifest)
    there.train(given, context(CPU))
    before = torch.cuda.memory_allocated(cuda)
    for _ in range(3):
        there.train(given, context(CPU))
        there.evaluate(given)
    assert torch.cuda.memory_allocated(cuda) <= before


def test_a_real_lack_of_memory_falls_back_to_the_cpu_and_leaves_nothing(
    cuda: torch.device,
) -> None:
    task, fallen = Taking(), list[torch.device]()
    there = trainer(task, cuda, fallen)
    given = flatten_module(built(task), there.manifest)
    before = torch.cuda.memory_allocated(cuda)
    update = there.train(given, context(CPU))
    assert task.devices == ["cuda", "cpu"]
    assert fallen == [CPU]
    assert torch.equal(update.flat, trainer(StampsTask(), CPU, []).train(given, context(CPU)).flat)
    assert torch.cuda.memory_allocated(cuda) <= before


@pytest.mark.parametrize("name", list(WORKS))
def test_each_work_of_unlearning_does_what_it_does_on_the_cpu(
    name: str, cuda: torch.device
) -> None:
    task, ends = StampsTask(), list[torch.Tensor]()
    for device in (cuda, CPU):
        model = built(task).to(device)
        reference = built(task, 11).eval().to(device)
        result = work_named(name)(task, model, stamps(40), context(device), reference)
        assert result.num_examples == 40
        ends.append(flat(model).cpu())
    assert_near(ends[0], ends[1], flat(built(task)))


def test_noise_is_added_on_the_device(cuda: torch.device) -> None:
    class Plain(StampsTask):
        """Without BatchNorm, which DP-SGD refuses."""

        def build_model(self) -> nn.Module:
            return zoo.Cnn(in_channels=1, image_size=8, widths=(2, 3), hidden=4, num_classes=3)

    task, ends = Plain(), list[torch.Tensor]()
    for noise in (Noise(1e-9, 1.0), Noise(1.0, 1.0)):
        model = built(task).to(cuda)
        sgd.train(task, model, stamps(40), context(cuda), noise)
        ends.append(flat(model).cpu())
    assert all(end.isfinite().all() for end in ends)
    assert not torch.allclose(ends[0], ends[1])


@pytest.mark.parametrize("name", MODELS)
def test_each_model_for_images_trains(name: str, cuda: torch.device) -> None:
    class Coloured(StampsTask):
        """The model of the name."""

        def build_model(self) -> nn.Module:
            return MODELS[name]

    generator = torch.Generator().manual_seed(1)
    images = torch.rand(16, 3, 8, 8, generator=generator)
    data = InMemoryDataset(images, torch.arange(16) % 3, [str(index) for index in range(16)])
    result = Coloured().train(MODELS[name].to(cuda), data, context(cuda))
    assert result.num_examples == 16
    assert all(each.isfinite().all() for each in MODELS[name].parameters())
