"""A Flower client as a Task, with Flower installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.client import NumPyClient

from fednot import flower
from fednot.flower import FlowerError
from fednot.training import TrainContext

CPU = torch.device("cpu")


class Adds(NumPyClient):
    """Adds the server's round to every parameter, and says what it was given."""

    def __init__(self, result: Any = None) -> None:
        self.given: list[np.ndarray[Any, Any]] = []
        self.config: dict[str, Any] = {}
        self._result = result

    def fit(self, parameters: Any, config: Any) -> Any:
        self.given, self.config = parameters, config
        if self._result is not None:
            return self._result
        added = [array + config["server_round"] for array in parameters]
        return added, 5, {"loss": np.float32(0.5), "name": "adds"}

    def evaluate(self, parameters: Any, config: Any) -> Any:
        return float(parameters[0].sum()), 3, {"accuracy": 0.5}


def build() -> torch.nn.Module:
    return torch.nn.Linear(2, 1)


def task_of(client: Any, **values: Any) -> flower.FlowerTask:
    return flower.task(client, build_model=build, num_train_examples=9, **values)


def test_it_trains_with_the_parameters_and_the_config_that_flower_expects() -> None:
    client = Adds()
    task, model = task_of(client), build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    context = TrainContext(CPU, seed=3, round=4, config={"local_epochs": 2})
    result = task.train(model, task.train_data(), context)
    assert [list(array.shape) for array in client.given] == [[1, 2], [1]]
    assert client.config == {"server_round": 4, "seed": 3, "local_epochs": 2}
    assert (result.num_examples, dict(result.metrics)) == (5, {"loss": 0.5})
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, before[name] + 4)


class Returns(NumPyClient):
    """Gives the parameters back as it got them."""

    def fit(self, parameters: Any, config: Any) -> Any:
        return parameters, 1, {}

    def evaluate(self, parameters: Any, config: Any) -> Any:
        return 0.0, 1, {}


def test_a_model_with_batch_norm_comes_back_as_it_was() -> None:
    """`num_batches_tracked` is a number without a shape."""
    task = flower.task(Returns(), build_model=lambda: torch.nn.BatchNorm1d(2), num_train_examples=1)
    model = task.build_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    task.train(model, task.train_data(), TrainContext(CPU, seed=0, round=1))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_dtype_that_numpy_has_not_is_said() -> None:
    task = flower.task(
        Returns(), build_model=lambda: build().to(torch.bfloat16), num_train_examples=1
    )
    with pytest.raises(FlowerError, match="bfloat16"):
        task.train(task.build_model(), task.train_data(), TrainContext(CPU, seed=0, round=1))


def test_it_evaluates() -> None:
    task, model = task_of(Adds(), num_test_examples=3), build()
    torch.nn.init.ones_(model.get_parameter("weight"))
    data = task.test_data()
    assert data is not None
    assert len(data) == 3
    assert task.evaluate(model, data, CPU) == {"accuracy": 0.5, "loss": 2.0}


def test_what_it_cannot_forget_it_says() -> None:
    task = task_of(Adds())
    assert set(task.unsupported_scopes) == {"samples", "class"}
    assert task.test_data() is None
    assert len(task.train_data()) == 9
    with pytest.raises(FlowerError, match="reads its data itself"):
        task.train_data()[0]
    with pytest.raises(NotImplementedError):
        task.sample_losses(build(), task.train_data(), CPU)


def test_a_client_is_made_at_its_first_use() -> None:
    made = []

    def make() -> Adds:
        made.append(Adds())
        return made[-1]

    task = task_of(make)
    assert not made
    for number in (1, 2):
        task.train(build(), task.train_data(), TrainContext(CPU, seed=0, round=number))
    assert len(made) == 1


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (([np.zeros((1, 2))], 5, {}), "1 arrays and the model has 2 tensors"),
        (([np.zeros((2, 1)), np.zeros(1)], 5, {}), r"weight the shape \[2, 1\].*has \[1, 2\]"),
        (([np.zeros((1, 2)), np.zeros(1)], 0, {}), "must say at least 1"),
        (([np.zeros((1, 2), int), np.zeros(1)], 5, {}), "weight as int64; the model has .*float32"),
        (([np.zeros((1, 2)), np.zeros(1)], 5), "three things"),
    ],
)
def test_a_result_that_does_not_fit_is_said(result: Any, message: str) -> None:
    task = task_of(Adds(result))
    with pytest.raises(FlowerError, match=message):
        task.train(build(), task.train_data(), TrainContext(CPU, seed=0, round=1))


def test_what_is_no_client_is_said() -> None:
    with pytest.raises(FlowerError, match="no fit and evaluate"):
        task_of(object.__new__(object))
    with pytest.raises(FlowerError, match="at least 1"):
        flower.task(Adds(), build_model=build, num_train_examples=0)
