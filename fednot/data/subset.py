"""Parts of a dataset that keep their samples' ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from fednot.data.errors import DataError
from fednot.task import SampleDataset
from fednot.training import batch_of


class Subset:
    """The samples of a dataset at the given indices, in that order, under their own ids."""

    def __init__(self, data: SampleDataset, indices: Sequence[int]) -> None:
        for index in indices:
            if not 0 <= index < len(data):
                raise DataError(f"index {index} is outside of the {len(data)} samples")
        self._data = data
        self._indices = list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        """The sample as the dataset gives it."""
        return self._data[self._indices[index]]

    def sample_id(self, index: int) -> str:
        """The id that the sample has in the dataset."""
        return self._data.sample_id(self._indices[index])

    def target(self, index: int) -> int:
        """The class of the sample. Raises TypeError if its target is no class."""
        return target_of(self._data, self._indices[index])

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Stacked inputs and targets, as fast as the dataset gives them."""
        return batch_of(self._data, [self._indices[index] for index in indices])


@runtime_checkable
class LabelledDataset(Protocol):
    """A dataset that tells the class of a sample without reading the sample."""

    def target(self, index: int, /) -> int:
        """The class of the sample at an index."""
        ...


def target_of(data: SampleDataset, index: int) -> int:
    """The class of a sample; it is read if the dataset has no `target`.

    Raises TypeError if its target is no class.
    """
    if isinstance(data, LabelledDataset):
        return int(data.target(index))
    target = torch.as_tensor(data[index][1])
    if target.numel() != 1 or target.is_floating_point():
        raise TypeError(f"a target of shape {list(target.shape)} and {target.dtype} is no class")
    return int(target)


def shard(data: SampleDataset, part: str) -> Subset:
    """Part I of N, written "I/N": every N-th sample from the I-th on. Raises DataError."""
    return Subset(data, shard_indices(len(data), part))


def shard_indices(size: int, part: str) -> range:
    """The indices of part "I/N" of so many samples; "" takes all. Raises DataError.

    Parts are interleaved, so that samples sorted by class are spread evenly over them.
    """
    if not part:
        return range(size)
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal()) or int(index) >= int(count):
        raise DataError(f"{part!r} is no shard; write I/N with 0 <= I < N, such as 0/3")
    return range(int(index), size, int(count))
