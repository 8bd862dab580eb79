"""CIFAR-10 and CIFAR-100 in their binary format, which holds numbers only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from fednot.data.errors import DataError
from fednot.data.in_memory import InMemoryDataset
from fednot.data.subset import shard_indices

PIXELS: Final = 3 * 32 * 32

_Records = NDArray[np.uint8]


class Cifar10(InMemoryDataset):
    """CIFAR-10: inputs [3, 32, 32], 10 classes, ids `<file name>:<index>`.

    `root` holds data_batch_1.bin to data_batch_5.bin and test_batch.bin, itself or in its folder
    cifar-10-batches-bin. Raises DataError for a file that is missing, truncated or pickled.
    """

    def __init__(self, root: str | Path, *, train: bool = True, shard: str = "") -> None:
        numbers = [f"data_batch_{number}" for number in range(1, 6)]
        folder = _folder(Path(root), "cifar-10-batches-bin")
        names = numbers if train else ["test_batch"]
        super().__init__(*_samples(folder, names, classes=(10,), label=0, shard=shard))


class Cifar100(InMemoryDataset):
    """CIFAR-100: inputs [3, 32, 32], 100 fine classes or 20 coarse ones, ids `<file name>:<index>`.

    `root` holds train.bin and test.bin, itself or in its folder cifar-100-binary. Raises DataError
    for a file that is missing, truncated or pickled.
    """

    def __init__(
        self, root: str | Path, *, train: bool = True, coarse: bool = False, shard: str = ""
    ) -> None:
        folder = _folder(Path(root), "cifar-100-binary")
        names = ["train" if train else "test"]
        label = 0 if coarse else 1
        super().__init__(*_samples(folder, names, classes=(20, 100), label=label, shard=shard))


def _folder(root: Path, usual: str) -> Path:
    return root / usual if (root / usual).is_dir() else root


def _samples(
    folder: Path, names: list[str], *, classes: tuple[int, ...], label: int, shard: str
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    files = {f"{name}.bin": _records(folder, name, classes) for name in names}
    ids = [f"{name}:{index}" for name, records in files.items() for index in range(len(records))]
    part = shard_indices(len(ids), shard)
    kept = slice(part.start, part.stop, part.step)
    records = np.concatenate(list(files.values()))[kept]
    images = np.ascontiguousarray(records[:, len(classes) :]).reshape(-1, 3, 32, 32)
    targets = torch.from_numpy(records[:, label].astype(np.int64))
    return torch.from_numpy(images), targets, ids[kept]


def _records(folder: Path, name: str, classes: tuple[int, ...]) -> _Records:
    path = folder / f"{name}.bin"
    if not path.is_file():
        if (folder / name).is_file():
            raise DataError(_pickled(folder / name))
        raise DataError(f"{path} is missing; unpack the binary version of CIFAR there")
    size = len(classes) + PIXELS
    raw = path.read_bytes()
    if raw[:1] == b"\x80":
        raise DataError(_pickled(path))
    if not raw or len(raw) % size:
        raise DataError(
            f"{path} is truncated: {len(raw)} bytes are no whole number of {size}-byte records"
        )
    records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, size)
    for column, count in enumerate(classes):
        if int(records[:, column].max()) >= count:
            raise DataError(f"{path} has a label above {count - 1}; is it another dataset's file?")
    return records


def _pickled(path: Path) -> str:
    return (
        f"{path} is the pickled Python version, which fednot does not read since unpickling runs "
        "code; download the binary version (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz)"
    )
