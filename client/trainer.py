"""What is done with a downloaded version: train it or score it, on the device that is left.

These are plain blocking functions of state in, state out; a worker thread runs them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from client.device import Device
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import difference, first_not_finite, flatten_module, load_into
from fednot.training import TrainContext, TrainResult


@dataclass(frozen=True)
class Update:
    """A trained update: its flat bytes, the examples behind it, what training measured."""

    flat: torch.Tensor
    num_examples: int
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Scores as means over so many examples."""

    num_examples: int
    metrics: Mapping[str, float]


def _placed(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device)


@dataclass(frozen=True)
class Trainer:
    """A Task with its data, on a device.

    The model is built anew for each piece of work, so that nothing outlives it beside the tensors
    that travel: no optimiser, no gradient, no buffer that is left out of the state dict.
    """

    task: Task
    manifest: Manifest
    train_data: SampleDataset
    test_data: SampleDataset | None
    device: Device
    place: Callable[[nn.Module, torch.device], nn.Module] = field(default=_placed)

    def train(self, given: torch.Tensor, context: TrainContext) -> Update:
        """Trains from a flat model and gives the update; the context's device is set here.

        Raises what the Task raises, WorkCancelledError, TypeError or ValueError for a result that
        is none.
        """
        return self.device.run(lambda device: self._train(given, replace(context, device=device)))

    def evaluate(self, given: torch.Tensor) -> Evaluation:
        """Scores a flat model on the test data. Raises ValueError if there is none."""
        if self.test_data is None or not len(self.test_data):
            raise ValueError("this client holds no test data to evaluate on")
        data = self.test_data
        return self.device.run(lambda device: self._evaluate(given, data, device))

    def _train(self, given: torch.Tensor, context: TrainContext) -> Update:
        context.check()
        started = time.monotonic()
        model = self._model(given, context.device)
        result = self.task.train(model, self.train_data, context)
        context.check()
        self._check(result)
        update = difference(flatten_module(model, self.manifest), given, self.manifest)
        spoilt = first_not_finite(update, self.manifest)
        if spoilt is not None:
            raise ValueError(f"training made NaN or Inf in {spoilt}; lower the learning rate")
        metrics = _floats(result.metrics)
        return Update(update, result.num_examples, metrics, time.monotonic() - started)

    def _evaluate(
        self, given: torch.Tensor, data: SampleDataset, device: torch.device
    ) -> Evaluation:
        metrics = self.task.evaluate(self._model(given, device), data, device)
        return Evaluation(len(data), _floats(metrics))

    def _model(self, given: torch.Tensor, device: torch.device) -> nn.Module:
        model = self.task.build_model()
        load_into(model, given, self.manifest)
        return self.place(model, device)

    def _check(self, result: object) -> None:
        if not isinstance(result, TrainResult):
            raise TypeError(f"train() gave {type(result).__name__}; it must give a TrainResult")
        if not 1 <= result.num_examples <= len(self.train_data):
            raise ValueError(
                f"train() says {result.num_examples} examples; "
                f"it must say 1 to {len(self.train_data)}"
            )


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items() if math.isfinite(float(value))}
