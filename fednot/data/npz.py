"""Arrays in a NumPy .npz file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fednot.data.errors import DataError
from fednot.data.in_memory import InMemoryDataset
from fednot.data.subset import shard_indices

Array = NDArray[Any]


class NpzDataset(InMemoryDataset):
    """The samples of an .npz file with an array of inputs [N, ...] and one of classes [N].

    Images are [N, H, W], [N, C, H, W], or [N, H, W, C] with `channels_last`, and are given as
    [C, H, W]. uint8 is scaled to [0, 1], floats are taken as they are. Ids come from the array
    `ids_key` if given, else they are `<file name>:<index in the file>`. `indices_key` names an
    array of the indices to keep, before the shard is taken. Raises DataError; nothing pickled is
    read.
    """

    def __init__(
        self,
        path: str | Path,
        inputs_key: str = "x",
        targets_key: str = "y",
        *,
        ids_key: str = "",
        indices_key: str = "",
        channels_last: bool = False,
        shard: str = "",
    ) -> None:
        path = Path(path)
        keys = [key for key in (inputs_key, targets_key, ids_key, indices_key) if key]
        arrays = _read(path, keys)
        inputs, targets = arrays[inputs_key], arrays[targets_key]
        _check(path, inputs, targets)
        kept = _kept(path, len(targets), arrays[indices_key] if indices_key else None, shard)
        names = arrays[ids_key] if ids_key else None
        if names is not None and names.shape != targets.shape:
            raise DataError(
                f"{path}: {ids_key} must hold one id for each of {len(targets)} samples"
            )
        ids = [
            str(names[index]) if names is not None else f"{path.name}:{index}"
            for index in kept.tolist()
        ]
        images = _channels_first(inputs[kept], channels_last=channels_last)
        super().__init__(
            torch.from_numpy(images), torch.from_numpy(targets[kept].astype(np.int64)), ids
        )


def _read(path: Path, keys: list[str]) -> dict[str, Array]:
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.lib.npyio.NpzFile):
            with file:
                return {key: file[key] for key in keys}
    except KeyError as error:
        raise DataError(f"{path} lacks an array: {error.args[0]}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as .npz without pickle: {error}") from error
    raise DataError(f"{path} is no .npz file; write it with numpy.savez")


def _check(path: Path, inputs: Array, targets: Array) -> None:
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise DataError(f"{path}: targets must be integer classes of shape [N]")
    if inputs.ndim < 2 or inputs.dtype.kind not in "fu" or len(inputs) != len(targets):
        raise DataError(
            f"{path}: inputs must be uint8 or float of shape [{len(targets)}, ...], "
            f"not {inputs.dtype} {list(inputs.shape)}"
        )
    if inputs.dtype.kind == "u" and inputs.dtype != np.uint8:
        raise DataError(f"{path}: inputs are {inputs.dtype}; store uint8 or float32")


def _kept(path: Path, size: int, indices: Array | None, shard: str) -> NDArray[np.int64]:
    chosen = np.arange(size) if indices is None else indices
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise DataError(f"{path}: indices must be integers of shape [K]")
    if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < size:
        raise DataError(f"{path}: an index is outside of the {size} samples")
    part = shard_indices(len(chosen), shard)
    return chosen[part.start : part.stop : part.step].astype(np.int64)


def _channels_first(inputs: Array, *, channels_last: bool) -> Array:
    if inputs.ndim == 3:
        inputs = inputs[:, None]
    elif channels_last and inputs.ndim == 4:
        inputs = inputs.transpose(0, 3, 1, 2)
    kind = np.uint8 if inputs.dtype == np.uint8 else np.float32
    return np.ascontiguousarray(inputs, dtype=kind)
