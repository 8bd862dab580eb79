"""What is done with a downloaded version: train it or score it, on the device that is left.

These are plain blocking functions of state in, state out; a worker thread runs them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from client.device import Device
from client.named_work import Forgotten, NamedWork
from client.own_data import OwnData
from client.privacy import Privacy
from client.profiling import LookedAt, profiles
from fednot.data.retained import Retained
from fednot.loss_profile import LossProfile
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import difference, first_not_finite, flatten_module, load_into
from fednot.tombstones import Tombstones
from fednot.training import TrainContext, TrainResult
from fednot.v1.federation_pb2 import SAMPLE_GROUP_RETAINED


@dataclass(frozen=True)
class Update:
    """A trained update: its flat bytes, the examples behind it, what training measured.

    `data` is what it was trained on.
    """

    flat: torch.Tensor
    num_examples: int
    metrics: Mapping[str, float]
    seconds: float
    data: Retained | Forgotten


@dataclass(frozen=True)
class Evaluation:
    """Scores as means over so many examples."""

    num_examples: int
    metrics: Mapping[str, float]


def _placed(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device)


@dataclass(frozen=True)
class Trainer:
    """A Task with its data, on a device; samples under a tombstone are left out.

    The model is built anew for each piece of work, so that nothing outlives it beside the tensors
    that travel: no optimiser, no gradient, no buffer that is left out of the state dict.
    """

    task: Task
    manifest: Manifest
    train_data: SampleDataset
    test_data: SampleDataset | None
    device: Device
    tombstones: Tombstones
    evaluate_forgotten: bool = True
    place: Callable[[nn.Module, torch.device], nn.Module] = field(default=_placed)
    privacy: Privacy | None = None

    @cached_property
    def own(self) -> OwnData:
        """The data by its tombstones."""
        return OwnData(
            self.task,
            self.train_data,
            self.test_data,
            self.tombstones,
            evaluate_forgotten=self.evaluate_forgotten,
        )

    def train(
        self, given: torch.Tensor, context: TrainContext, named: NamedWork | None = None
    ) -> Update:
        """Trains from a flat model, or does named work; the context's device is set here.

        Raises what the Task raises, WorkCancelledError, TypeError or ValueError for a result that
        is none, ForgottenMeanwhileError if a sample was barred while it ran.
        """
        return self.device.run(
            lambda device: self._train(given, replace(context, device=device), named)
        )

    def afford(self, context: TrainContext) -> None:
        """Raises FednotError (PRIVACY_SPENT) if training would pass the limit of --dp-epsilon.

        Raises as `train` does for data that may not be used.
        """
        if self.privacy is not None:
            self.privacy.afford(self.task, self.own.retained_train(), context)

    def evaluate(self, given: torch.Tensor) -> Evaluation:
        """Scores a flat model on the test data that is retained. Raises ValueError if none is.

        What the Task measures on test samples of forgotten classes is added as `forgotten_<name>`.
        """
        data = self.own.retained_test()
        if data is None or not len(data):
            raise ValueError("this client holds no test data to evaluate on")
        return self.device.run(lambda device: self._evaluate(given, data, device))

    def profile(self, given: torch.Tensor, wanted: LookedAt) -> dict[int, LossProfile]:
        """How a flat model does on groups of this client's samples; one without samples is left
        out, and under differential privacy that of the samples which are trained on."""
        groups = self._shown(self.own.groups(wanted))
        return self.device.run(
            lambda device: profiles(self.task, self._model(given, device), groups, device)
        )

    def _train(self, given: torch.Tensor, context: TrainContext, named: NamedWork | None) -> Update:
        context.check()
        started = time.monotonic()
        if named is None:
            data: Retained | Forgotten = self.own.retained_train()
        else:
            data = named.data(self.own, self.tombstones)
        model = self._model(given, context.device)
        result = self._result(model, data, context, named)
        context.check()
        data.check()
        _check(result, len(data))
        update = difference(flatten_module(model, self.manifest), given, self.manifest)
        spoilt = first_not_finite(update, self.manifest)
        if spoilt is not None:
            raise ValueError(f"training made NaN or Inf in {spoilt}; lower the learning rate")
        metrics = _floats(result.metrics)
        return Update(update, result.num_examples, metrics, time.monotonic() - started, data)

    def _result(
        self,
        model: nn.Module,
        data: Retained | Forgotten,
        context: TrainContext,
        named: NamedWork | None,
    ) -> TrainResult:
        if named is not None:
            if self.privacy is not None:
                self.privacy.unprotected(named.name)
            return named.train(self.task, model, data, context, self.manifest)
        if self.privacy is not None and isinstance(data, Retained):
            return self.privacy.train(self.task, model, data, context)
        return self.task.train(model, data, context)

    def _evaluate(self, given: torch.Tensor, data: Retained, device: torch.device) -> Evaluation:
        model = self._model(given, device)
        metrics = _floats(self.task.evaluate(model, data, device))
        forgotten = self.own.forgotten_test()
        if forgotten is not None and len(forgotten):
            found = _floats(self.task.evaluate(model, forgotten, device))
            metrics |= {f"forgotten_{name}": value for name, value in found.items()}
        data.check()
        return Evaluation(len(data), metrics)

    def _shown(self, groups: Mapping[int, SampleDataset]) -> Mapping[int, SampleDataset]:
        if self.privacy is None or self.privacy.noise is None:
            return groups
        return {key: data for key, data in groups.items() if key != SAMPLE_GROUP_RETAINED}

    def _model(self, given: torch.Tensor, device: torch.device) -> nn.Module:
        model = self.task.build_model()
        load_into(model, given, self.manifest)
        return self.place(model, device)


def _check(result: object, size: int) -> None:
    if not isinstance(result, TrainResult):
        raise TypeError(f"train() gave {type(result).__name__}; it must give a TrainResult")
    if not 1 <= result.num_examples <= size:
        raise ValueError(f"train() says {result.num_examples} examples; it must say 1 to {size}")


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items() if math.isfinite(float(value))}
