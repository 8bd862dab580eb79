"""Runs an existing Flower client, unchanged, as a Task.

Flower itself is not imported: whatever has `fit` and `evaluate` of a `flwr.client.NumPyClient` will
do. What it trains on stays its own, so fednot cannot take samples out of it: deletions of samples
and classes are refused, those of the whole client work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fednot.task import SampleDataset, Task
from fednot.training import TrainContext, TrainResult

Arrays = list[NDArray[Any]]

_OWN_DATA = "a Flower client reads its data itself, so no sample can be kept from its training"


class NumPyClient(Protocol):
    """What is used of `flwr.client.NumPyClient`."""

    def fit(
        self, parameters: Arrays, config: dict[str, Any]
    ) -> tuple[Arrays, int, Mapping[str, Any]]:
        """Trains; gives the parameters, the number of examples, and metrics."""
        ...

    def evaluate(
        self, parameters: Arrays, config: dict[str, Any]
    ) -> tuple[float, int, Mapping[str, Any]]:
        """Scores; gives the loss, the number of examples, and metrics."""
        ...


class FlowerError(ValueError):
    """What a Flower client gave does not fit; the message says how."""


def task(
    client: NumPyClient | Callable[[], NumPyClient],
    *,
    build_model: Callable[[], nn.Module],
    num_train_examples: int,
    num_test_examples: int = 0,
    example_input: torch.Tensor | None = None,
) -> FlowerTask:
    """A Task around a Flower client, or around a function that makes one at the first use.

    `build_model` builds the model whose `state_dict()` the client's parameters are, in its order.
    `num_train_examples` is the most that `fit` may say it trained on; with `num_test_examples` the
    client evaluates. `example_input`, of shape [1, ...], has the server find the model's layers.
    Raises FlowerError for what is no such client, or for counts below 1 and 0.
    """
    if num_train_examples < 1 or num_test_examples < 0:
        raise FlowerError("num_train_examples must be at least 1, num_test_examples at least 0")
    if not callable(client) and not _is_client(client):
        raise FlowerError(f"{type(client).__name__} has no fit and evaluate of a NumPyClient")
    return FlowerTask(client, build_model, (num_train_examples, num_test_examples), example_input)


class FlowerTask(Task):
    """See `task`. `fit` and `evaluate` get the run's config with "server_round" and "seed"."""

    unsupported_scopes = MappingProxyType({"samples": _OWN_DATA, "class": _OWN_DATA})

    def __init__(
        self,
        client: NumPyClient | Callable[[], NumPyClient],
        build_model: Callable[[], nn.Module],
        examples: tuple[int, int],
        example_input: torch.Tensor | None,
    ) -> None:
        self._given = client
        self._client: Any = None
        self._build_model = build_model
        self._train_examples, self._test_examples = examples
        self._example_input = example_input

    def build_model(self) -> nn.Module:
        """What was given builds it."""
        return self._build_model()

    def train_data(self) -> SampleDataset:
        """As many samples as were stated, which only the Flower client can read."""
        return _Unreadable(self._train_examples, "train")

    def test_data(self) -> SampleDataset | None:
        """As `train_data`; None if none were stated."""
        return _Unreadable(self._test_examples, "test") if self._test_examples else None

    def example_input(self) -> torch.Tensor | None:
        """What was given."""
        return self._example_input

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        """Calls `fit` and takes over what it gives. Raises FlowerError if that does not fit."""
        config = {**context.config, "server_round": context.round, "seed": context.seed}
        context.check()
        arrays, num_examples, metrics = _three(self._made().fit(_arrays_of(model), config), "fit")
        context.check()
        _load(model, arrays)
        return TrainResult(_count(num_examples, "fit"), _numbers(metrics))

    def evaluate(
        self, model: nn.Module, data: SampleDataset, device: torch.device
    ) -> Mapping[str, float]:
        """Calls `evaluate`: its metrics that are numbers, and "loss"."""
        given = self._made().evaluate(_arrays_of(model), {})
        loss, num_examples, metrics = _three(given, "evaluate")
        _count(num_examples, "evaluate")
        return {**_numbers(metrics), "loss": float(loss)}

    def sample_losses(
        self, model: nn.Module, data: SampleDataset, device: torch.device
    ) -> NoReturn:
        """Raises NotImplementedError: a Flower client scores no single samples."""
        raise NotImplementedError(f"no losses of single samples: {_OWN_DATA}")

    def _made(self) -> NumPyClient:
        if self._client is None:
            given: Any = self._given
            made = given if _is_client(given) else given()
            if not _is_client(made):
                raise FlowerError(f"{type(made).__name__} has no fit and evaluate")
            self._client = made
        found: NumPyClient = self._client
        return found


class _Unreadable:
    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> NoReturn:
        raise FlowerError(f"sample {index} cannot be read: {_OWN_DATA}")

    def sample_id(self, index: int) -> str:
        """A name that says no more than the place."""
        return f"{self._name}:{index}"


def _is_client(found: object) -> bool:
    return not isinstance(found, type) and all(
        callable(getattr(found, name, None)) for name in ("fit", "evaluate")
    )


def _arrays_of(model: nn.Module) -> Arrays:
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.dtype is torch.bfloat16:
            raise FlowerError(
                f"{name} is bfloat16, which numpy has not; give Flower a float32 model"
            )
    return [tensor.detach().cpu().numpy().copy() for tensor in state.values()]


def _load(model: nn.Module, arrays: Sequence[NDArray[Any]]) -> None:
    present = model.state_dict()
    if len(arrays) != len(present):
        raise FlowerError(
            f"fit gave {len(arrays)} arrays and the model has {len(present)} tensors; give those "
            "of state_dict(), in its order"
        )
    for (name, tensor), array in zip(present.items(), arrays, strict=True):
        found = np.asarray(array)
        if found.shape != tuple(tensor.shape):
            raise FlowerError(
                f"fit gave {name} the shape {list(found.shape)}; the model has {list(tensor.shape)}"
            )
        if (
            found.dtype.kind == "f"
        ) != tensor.dtype.is_floating_point or found.dtype.kind not in "fiub":
            raise FlowerError(f"fit gave {name} as {found.dtype}; the model has {tensor.dtype}")
        tensor.copy_(torch.from_numpy(found.copy()))


def _three(given: object, name: str) -> tuple[Any, Any, Any]:
    if not isinstance(given, tuple) or len(given) != 3:
        raise FlowerError(f"{name} must give three things, as NumPyClient's does")
    return given


def _count(number: object, name: str) -> int:
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
        raise FlowerError(f"{name} says {number!r} examples; it must say at least 1")
    return int(number)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    kinds = (int, float, np.integer, np.floating)
    return {key: float(value) for key, value in metrics.items() if isinstance(value, kinds)}
