"""Views without forgotten samples, proven by a dataset that remembers what was read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fednot.data.errors import DataError
from fednot.data.images import ImageFolder
from fednot.data.in_memory import InMemoryDataset
from fednot.data.retained import ForgottenMeanwhileError, Labels, Retained
from fednot.data.subset import Subset, target_of
from fednot.tombstones import Tombstones
from fednot.training import batch_of


class Spied:
    """Ten samples, of class index % 3, that remembers the ids it was read for."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read.append(self.sample_id(index))
        return torch.tensor([float(index)]), index % 3

    def sample_id(self, index: int) -> str:
        return f"s{index}"

    def target(self, index: int) -> int:
        return index % 3


def ids(view: Retained) -> list[str]:
    return [view.sample_id(index) for index in range(len(view))]


def test_without_tombstones_a_view_is_the_data(tmp_path: Path) -> None:
    view = Retained(Labels(Spied()), Tombstones(tmp_path))
    assert ids(view) == [f"s{index}" for index in range(10)]
    assert torch.equal(batch_of(view, [3, 1])[0], torch.tensor([[3.0], [1.0]]))


def test_forgotten_ids_and_classes_are_neither_given_nor_read(tmp_path: Path) -> None:
    stones, data = Tombstones(tmp_path), Spied()
    stones.bar_samples(["s1", "s5"], own=True)
    stones.bar_class(0, name="t")
    view = Retained(Labels(data), stones)
    assert ids(view) == ["s2", "s4", "s7", "s8"]
    assert data.read == []
    inputs, targets = view.batch(range(4))
    assert inputs.flatten().tolist() == [2.0, 4.0, 7.0, 8.0]
    assert targets.tolist() == [2, 1, 1, 2]
    assert [view.target(index) for index in range(4)] == [2, 1, 1, 2]
    assert data.read == ["s2", "s4", "s7", "s8"]


def test_a_view_raises_once_another_process_has_barred_its_sample(tmp_path: Path) -> None:
    data = Spied()
    view = Retained(Labels(data), Tombstones(tmp_path))
    assert float(view[0][0]) == 0.0
    Tombstones(tmp_path).bar_samples(["s9"], own=True)
    for read in (lambda: view[0], lambda: view.batch([0]), view.check):
        with pytest.raises(ForgottenMeanwhileError, match="samples were forgotten meanwhile"):
            read()
    assert data.read == ["s0"]


def test_what_concerns_no_sample_of_a_view_leaves_it_alone(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path)
    view = Retained(Labels(Spied()), stones, [1, 2])
    stones.bar_samples(["s9", "elsewhere"], own=True)
    assert float(view[0][0]) == 1.0
    stones.bar_class(0, name="t")
    view.check()
    stones.bar_class(2, name="u")
    with pytest.raises(ForgottenMeanwhileError):
        view.check()


def test_a_lifted_tombstone_gives_the_samples_back(tmp_path: Path) -> None:
    stones, labels = Tombstones(tmp_path), Labels(Spied())
    stones.bar_class(0, name="t")
    view = Retained(labels, stones)
    assert len(view) == 6
    stones.lift("t")
    view.check()
    assert not view.is_current or len(view) == 6
    assert len(Retained(labels, stones)) == 10


def test_a_class_is_found_out_without_decoding_an_image(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"no image")
    data = ImageFolder(tmp_path)
    assert [target_of(data, index) for index in range(2)] == [0, 1]
    assert target_of(Subset(data, [1]), 0) == 1
    with pytest.raises(DataError):
        data[0]


def test_a_target_that_is_no_class_is_told(tmp_path: Path) -> None:
    class Masks(Spied):
        target = None  # type: ignore[assignment]

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
            return torch.zeros(1), torch.zeros(2, 2)

    with pytest.raises(TypeError, match="no class"):
        Labels(Masks()).classes()
    assert target_of(InMemoryDataset(torch.zeros(1, 1), torch.tensor([4]), ["a"]), 0) == 4
