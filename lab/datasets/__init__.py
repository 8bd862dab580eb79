"""The lab's data sets by name, each read whole into memory and cut to size by a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fednot.data.errors import DataError
from lab.datasets.pool import Pool, Scale, ScaledDataset, pooled, stratified
from lab.datasets.readers import READERS, digits

__all__ = ["NAMES", "Pool", "Scale", "ScaledDataset", "load", "stratified"]

NAMES: Final = ("digits", *READERS)


def load(
    name: str,
    folder: Path | None = None,
    *,
    train: int | None = None,
    test: int | None = None,
    seed: int = 0,
    size: int = 32,
) -> Pool:
    """The data set of a name, of `train` and `test` samples (None: all), drawn by the seed.

    A draw keeps the classes' shares. `size` is the side in pixels that images of Caltech-101 are
    resized to. Raises DataError for an unknown name, a missing folder, or wrong files.
    """
    counts = train, test
    if name == "digits":
        return pooled(*digits(seed), counts=counts, seed=seed)
    if name not in READERS:
        raise DataError(f"{name!r} is no data set of the lab; take one of {', '.join(NAMES)}")
    if folder is None:
        raise DataError(f"{name} is read from a folder; give the one where you have it")
    return pooled(*READERS[name](folder, size, seed), counts=counts, seed=seed)
