"""Choices of layers that are tried on the server alone, on a model of three small layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.lab_study import STUDY, study
from torch import nn

from fednot.data.in_memory import InMemoryDataset
from fednot.layers import Choice, LayerMap, choose, layer_map
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import flatten_module
from fednot.training import TrainContext
from lab.__main__ import main
from lab.cells import Cell, cells_of
from lab.config import ConfigError, read
from lab.dry_run import HALF, PROXY, Samples, Trial, bases_of, choices, in_order, samples_of, tried
from lab.scene import scene_of

CPU = torch.device("cpu")


def blobs(seed: int, count: int = 120) -> InMemoryDataset:
    """Points [N, 4] around one of three corners, whose number is the class."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    noise = 0.3 * torch.randn(count, 4, generator=generator)
    return InMemoryDataset(3 * torch.eye(4)[targets] + noise, targets, ids(count))


def ids(count: int) -> list[str]:
    return [str(number) for number in range(count)]


class Blobs(Task):
    learning_rate = 0.05
    batch_size = 12

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 3)
        )

    def train_data(self) -> SampleDataset:
        return blobs(0)

    def test_data(self) -> SampleDataset:
        return blobs(1)

    def example_input(self) -> torch.Tensor:
        return torch.zeros(1, 4)


def layers_of(model: nn.Module) -> LayerMap:
    return layer_map(Manifest.of(model), model=model, example_input=torch.zeros(1, 4))


@pytest.fixture(scope="module")
def trained() -> torch.Tensor:
    torch.manual_seed(0)
    task = Blobs()
    model = task.build_model()
    task.train(model, blobs(0), TrainContext(CPU, seed=0, round=1, config={"local_epochs": 10}))
    assert task.evaluate(model, blobs(1), CPU)["accuracy"] > 0.95
    return flatten_module(model, Manifest.of(model))


def dry(flat: torch.Tensor, choice: Choice, proxy: SampleDataset, passes: int = 4) -> Trial:
    task = Blobs()
    samples = Samples(proxy, blobs(1), "made")
    return tried(task, flat, choice, samples, layers_of(task.build_model()), passes=passes)


def names(found: Sequence[Choice]) -> list[tuple[str, ...]]:
    return [choice.layers for choice in found]


def test_each_layer_alone_and_the_first_with_each_other_are_choices() -> None:
    assert names(choices(layers_of(Blobs().build_model()))) == [("0",), ("2",), ("0", "2")]


def test_first_layers_side_by_side_are_a_choice_together_and_alone() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 8), nn.Linear(4, 8)
            self.middle, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            both = torch.relu(self.left(inputs)) + torch.relu(self.right(inputs))
            return self.out(torch.relu(self.middle(both)))  # type: ignore[no-any-return]

    layers = replace(layers_of(Split()), first=("left.weight", "right.weight"))
    assert names(choices(layers)) == [
        ("left", "right"),
        ("left",),
        ("right",),
        ("middle",),
        ("left", "right", "middle"),
    ]


def test_a_model_of_an_output_layer_alone_has_no_choice() -> None:
    assert choices(layers_of(nn.Sequential(nn.Linear(4, 3)))) == ()


def test_the_base_teaches_what_negation_broke(trained: torch.Tensor) -> None:
    layers = layers_of(Blobs().build_model())
    before = trained.clone()
    found = dry(trained, choose(layers, "first"), blobs(2))
    assert len(found.accuracies) == 5
    assert found.accuracies[0] < 0.7
    assert found.recovered > 0.95
    assert (found.tensors, [*found.undone]) == (("0.weight",), ["0.weight"])
    assert torch.equal(trained, before)


def test_undoing_looks_at_all_layers_and_at_each_alone(trained: torch.Tensor) -> None:
    layers = layers_of(Blobs().build_model())
    choice = choose(layers, "index=0,1", allow_unsafe=True)
    found = dry(trained, choice, blobs(2), passes=1)
    assert [*found.undone] == ["0.weight, 2.weight", "0.weight", "2.weight"]
    assert found.restored == max(found.undone.values())


def test_undoing_right_after_negation_gives_the_base_back(trained: torch.Tensor) -> None:
    """With a learning rate of 0 nothing recovers, and the negation is all that is undone."""

    class Still(Blobs):
        learning_rate = 0.0

    task, layers = Still(), layers_of(Blobs().build_model())
    samples = Samples(blobs(2), blobs(1), "made")
    found = tried(task, trained, choose(layers, "first"), samples, layers, passes=2)
    assert len(set(found.accuracies)) == 1
    assert found.restored > 0.95


def test_the_labels_of_the_samples_are_never_looked_at(trained: torch.Tensor) -> None:
    layers, proxy = layers_of(Blobs().build_model()), blobs(2)
    inputs = torch.stack([proxy[index][0] for index in range(len(proxy))])
    wrong = InMemoryDataset(inputs, torch.zeros(len(proxy), dtype=torch.int64), ids(len(proxy)))
    one, other = (dry(trained, choose(layers, "first"), data) for data in (proxy, wrong))
    assert (one.accuracies, one.undone) == (other.accuracies, other.undone)


def test_no_passes_are_refused(trained: torch.Tensor) -> None:
    layers = layers_of(Blobs().build_model())
    with pytest.raises(ValueError, match="take 1 or more"):
        dry(trained, choose(layers, "first"), blobs(2), passes=0)


def test_the_order_weighs_cost_and_depth_alike() -> None:
    """Ranks by cost 2, 1, 3 and by depth 1, 3, 2: sums 3, 4, 5."""
    cheap = Trial(("cheap",), ("c",), (0.1, 0.9), {"c": 0.8})
    poor = Trial(("poor",), ("p",), (0.1, 0.4), {"p": 0.3, "q": 0.2})
    good = Trial(("good",), ("g",), (0.5, 0.8), {"g": 0.1})
    found = in_order([poor, cheap, good])
    assert [(one.layers, cost, deep) for one, cost, deep in found] == [
        (("good",), 2.0, 1.0),
        (("cheap",), 1.0, 3.0),
        (("poor",), 3.0, 2.0),
    ]


def cells(folder: Path, more: str = "") -> list[Cell]:
    text = STUDY.replace("test = 60", f"test = 60\n{more}")
    return cells_of(read(study(folder, text.replace('"tiny"', '"tiny"\nseeds = [0, 1]'))))


def test_proxy_samples_are_distilled_on_and_all_test_samples_measured_on(tmp_path: Path) -> None:
    found = samples_of(scene_of(cells(tmp_path, "proxy = 30")[0].base))
    assert (len(found.proxy), len(found.test), found.source) == (30, 60, PROXY)


def test_without_proxy_samples_the_test_samples_are_halved(tmp_path: Path) -> None:
    found = samples_of(scene_of(cells(tmp_path)[0].base))
    found_ids = [
        {data.sample_id(at) for at in range(len(data))} for data in (found.proxy, found.test)
    ]
    assert [len(one) for one in found_ids] == [30, 30]
    assert not found_ids[0] & found_ids[1]
    assert found.source == HALF


def test_bases_are_chosen_by_their_ids(tmp_path: Path) -> None:
    found = cells(tmp_path)
    assert [spec.seed for spec in bases_of(found)] == [0, 1]
    assert [spec.seed for spec in bases_of(found, "*-s1")] == [1]
    with pytest.raises(ConfigError, match="no base fits 'not'; there are digits-cnn_digits-iid-s0"):
        bases_of(found, "not")


def test_a_base_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dry-run", str(study(tmp_path)), "--out", str(tmp_path / "out")]) == 2
    assert "train it first with `python -m lab run`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
