"""Partitions deal out each sample once, by the seed, and each client a minimum, or say why not."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest
import torch

from fednot.data.errors import DataError
from lab.datasets import Pool, ScaledDataset
from lab.partitions import NAMES, partition

SPEAKERS = ("ann", "bob", "cleo", "dan")
NEEDS_LIBRARY = ("dirichlet", "pathological")


def pool(size: int = 400, classes: int = 10) -> Pool:
    targets = torch.arange(size) % classes
    data = ScaledDataset(torch.zeros(size, 1, 2, 2), targets, [str(i) for i in range(size)])
    groups = [SPEAKERS[i // 10 % len(SPEAKERS)] for i in range(size)]
    return Pool(data, data, classes, (1, 2, 2), groups, groups)


def dealt(name: str, seed: int = 0, clients: int = 4, **options: float) -> dict[str, list[int]]:
    if name in NEEDS_LIBRARY:
        pytest.importorskip("fl_data_generator")
    return partition(pool(), name, clients, seed, **options)


def classes_of(parts: Mapping[str, list[int]]) -> dict[str, set[int]]:
    return {client: {index % 10 for index in indices} for client, indices in parts.items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_each_sample_goes_to_one_client(name: str, seed: int) -> None:
    parts = dealt(name, seed, **({"classes": 3} if name == "pathological" else {}))
    assert len(parts) == 4
    assert sorted(index for part in parts.values() for index in part) == list(range(400))
    assert all(part == sorted(part) for part in parts.values())
    assert all(type(index) is int for part in parts.values() for index in part)


@pytest.mark.parametrize("name", ["iid", "dirichlet", "pathological"])
def test_the_seed_decides(name: str) -> None:
    options = {"classes": 3} if name == "pathological" else {}
    assert dealt(name, 1, **options) == dealt(name, 1, **options)
    assert dealt(name, 1, **options) != dealt(name, 2, **options)


def test_iid_parts_are_as_large_and_mixed() -> None:
    parts = dealt("iid")
    assert [len(part) for part in parts.values()] == [100] * 4
    assert list(parts) == ["client-0", "client-1", "client-2", "client-3"]
    assert all(classes == set(range(10)) for classes in classes_of(parts).values())


def test_a_small_alpha_is_more_uneven() -> None:
    def spread(alpha: float) -> int:
        sizes = [len(part) for part in dealt("dirichlet", 3, alpha=alpha).values()]
        return max(sizes) - min(sizes)

    assert spread(0.1) > 2 * spread(100.0)


def test_a_minimum_is_kept_to() -> None:
    for seed in range(5):
        parts = dealt("dirichlet", seed, alpha=0.2, minimum=50)
        assert min(len(part) for part in parts.values()) >= 50


def test_pathological_clients_have_so_many_classes() -> None:
    parts = dealt("pathological", 1, clients=5, classes=2)
    assert [len(classes) for classes in classes_of(parts).values()] == [2] * 5


def test_natural_clients_are_the_groups() -> None:
    parts = dealt("natural")
    assert list(parts) == list(SPEAKERS)
    assert parts["bob"][:11] == [*range(10, 20), 50]
    assert dealt("natural", clients=0) == parts


@pytest.mark.parametrize(
    ("name", "clients", "options", "words"),
    [
        ("sorted", 4, {}, "take one of iid"),
        ("iid", 0, {}, "0 clients cannot share"),
        ("iid", 401, {}, "401 clients cannot share"),
        ("iid", 50, {}, "gives client-0 8 samples of 400, fewer than the minimum of 10"),
        ("iid", 4, {"alpha": 0.1}, "iid has no option alpha"),
        ("natural", 3, {}, "the data has 4 groups"),
        ("dirichlet", 4, {"minimum": 101}, "take a larger alpha"),
        ("dirichlet", 4, {"alpha": -1.0}, "alpha must be positive"),
        ("dirichlet", 4, {"alpha": 0.001, "minimum": 90}, "a smaller minimum"),
        ("pathological", 4, {"classes": 11}, "cannot have 11 classes each"),
        ("pathological", 4, {"classes": 2}, "cannot have 2 classes each and all samples"),
    ],
)
def test_what_cannot_be_is_said(
    name: str, clients: int, options: dict[str, float], words: str
) -> None:
    with pytest.raises(DataError) as error:
        dealt(name, clients=clients, **options)
    assert words in str(error.value)


def test_a_group_that_is_no_name_is_refused() -> None:
    bare = pool()
    groups = ["Ann Smith"] * len(bare.train)
    with pytest.raises(DataError, match="'Ann Smith' is no client's name"):
        partition(Pool(bare.train, bare.test, 10, bare.shape, groups), "natural", 0, 0)


def test_data_without_groups_has_no_natural_partition() -> None:
    bare = pool()
    with pytest.raises(DataError, match="no natural groups"):
        partition(Pool(bare.train, bare.test, 10, bare.shape), "natural", 0, 0)


def test_a_sample_left_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("fl_data_generator")
    whole = library.pathological_partition
    monkeypatch.setattr(
        library, "pathological_partition", lambda *a, **k: {**whole(*a, **k), 0: whole(*a, **k)[1]}
    )
    with pytest.raises(DataError, match="take another seed"):
        dealt("pathological", 0, classes=3)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fl_data_generator", None)
    with pytest.raises(DataError, match=r"pip install '\.\[lab\]'"):
        partition(pool(), "dirichlet", 4, 0)
