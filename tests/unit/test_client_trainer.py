"""Training and evaluation from a flat model, and the way back from CUDA to the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fednot
from client.device import Device, DeviceError, choose
from client.trainer import Trainer
from fednot.data import InMemoryDataset
from fednot.manifest import Manifest
from fednot.tensors import difference, flatten_module, load_into
from fednot.tombstones import Tombstones
from fednot.training import TrainContext, TrainResult, WorkCancelledError

CUDA = torch.device("cuda:0")


class TinyTask(fednot.Task):
    batch_size = 4

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class HungryTask(TinyTask):
    """Has no room on CUDA; remembers where it was asked to work."""

    def __init__(self) -> None:
        self.devices: list[str] = []

    def train(self, model: nn.Module, data: Any, context: TrainContext) -> TrainResult:
        self._eat(context.device)
        return super().train(model, data, context)

    def evaluate(self, model: nn.Module, data: Any, device: torch.device) -> Any:
        self._eat(device)
        return super().evaluate(model, data, device)

    def _eat(self, device: torch.device) -> None:
        self.devices.append(device.type)
        if device.type == "cuda":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def blobs(size: int) -> InMemoryDataset:
    inputs = torch.randn(size, 3, generator=torch.Generator().manual_seed(1))
    return InMemoryDataset(inputs, (inputs[:, 0] > 0).long(), [str(i) for i in range(size)])


def trainer(
    task: fednot.Task, device: torch.device, fallen: Sequence[torch.device] = ()
) -> Trainer:
    manifest = Manifest.of(task.build_model())
    listed = fallen if isinstance(fallen, list) else []
    return Trainer(
        task,
        manifest,
        blobs(12),
        blobs(6),
        Device(device, listed.append),
        Tombstones(Path("nowhere")),
        place=lambda model, _: model,
    )


def context(**config: float) -> TrainContext:
    return TrainContext(torch.device("cpu"), seed=5, round=1, config=config)


def given(trained_by: Trainer) -> torch.Tensor:
    torch.manual_seed(3)
    return flatten_module(trained_by.task.build_model(), trained_by.manifest)


def test_an_update_is_trained_minus_given_and_depends_on_nothing_else() -> None:
    here = trainer(TinyTask(), torch.device("cpu"))
    flat = given(here)
    before = flat.clone()
    first, second = here.train(flat, context()), here.train(flat, context())
    model = here.task.build_model()
    load_into(model, flat, here.manifest)
    here.task.train(model, here.train_data, context())
    expected = difference(flatten_module(model, here.manifest), flat, here.manifest)
    assert torch.equal(first.flat, expected)
    assert torch.equal(second.flat, expected)
    assert torch.equal(flat, before)
    assert first.num_examples == 12
    assert first.metrics["loss"] > 0


def test_evaluation_scores_the_test_data() -> None:
    here = trainer(TinyTask(), torch.device("cpu"))
    scores = here.evaluate(given(here))
    assert scores.num_examples == 6
    assert set(scores.metrics) == {"loss", "accuracy", "chance"}


def test_training_falls_back_from_cuda_and_stays_there() -> None:
    fallen: list[torch.device] = []
    task = HungryTask()
    here = trainer(task, CUDA, fallen)
    flat = given(here)
    update = here.train(flat, context())
    assert task.devices == ["cuda", "cpu"]
    assert (here.device.degraded, here.device.current) == (True, torch.device("cpu"))
    assert fallen == [torch.device("cpu")]
    on_cpu = trainer(TinyTask(), torch.device("cpu")).train(flat, context())
    assert torch.equal(update.flat, on_cpu.flat)
    here.evaluate(flat)
    assert task.devices == ["cuda", "cpu", "cpu"]


def test_evaluation_falls_back_too() -> None:
    task = HungryTask()
    here = trainer(task, CUDA)
    assert here.evaluate(given(here)).num_examples == 6
    assert task.devices == ["cuda", "cpu"]


def test_a_lack_of_memory_on_the_cpu_is_a_failure() -> None:
    device = Device(torch.device("cpu"), lambda _: None)

    def work(_: torch.device) -> None:
        raise torch.cuda.OutOfMemoryError("none left")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        device.run(work)
    assert not device.degraded


def test_cancelled_training_stops() -> None:
    here = trainer(TinyTask(), torch.device("cpu"))
    cancelled = context()
    cancelled.cancelled.set()
    with pytest.raises(WorkCancelledError):
        here.train(given(here), cancelled)


class WrongTask(TinyTask):
    def __init__(self, result: Any) -> None:
        self.result = result

    def train(self, model: nn.Module, data: Any, context: TrainContext) -> TrainResult:
        if self.result == "nan":
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))
            return TrainResult(1)
        return self.result  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "must give a TrainResult"),
        (TrainResult(0), "1 to 12"),
        (TrainResult(13), "1 to 12"),
        ("nan", "NaN or Inf in 0.weight"),
    ],
)
def test_a_wrong_result_is_a_failure_that_says_what_is_wrong(result: Any, message: str) -> None:
    here = trainer(WrongTask(result), torch.device("cpu"))
    with pytest.raises((TypeError, ValueError), match=message):
        here.train(given(here), context())


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match="--device auto"):
        choose("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose("auto") == torch.device("cuda")
    assert choose("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="sees 2 CUDA devices"):
        choose("cuda:2")
