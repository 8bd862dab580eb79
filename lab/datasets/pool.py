"""A data set as the lab uses it: everything in memory, a fixed test set, natural groups if any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from fednot.data.errors import DataError
from fednot.data.in_memory import InMemoryDataset, scaled

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Scale:
    """What inputs in [0, 1] (or floats as they are) are normalised by: one value a channel."""

    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)

    def applied(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs float32 [..., C, H, W] less the mean, over the deviation; a new tensor."""
        mean, deviation = torch.tensor(self.mean), torch.tensor(self.deviation)
        return (inputs - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1)


UNSCALED: Final = Scale()


class ScaledDataset(InMemoryDataset):
    """Images [N, C, H, W] as they were stored (uint8 or float), normalised as they are read.

    Full CIFAR-10 takes 154 MB so, and not 614. A pixel trigger goes into what is stored.
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        ids: Sequence[str],
        scale: Scale = UNSCALED,
    ) -> None:
        super().__init__(inputs, targets, ids)
        self.scale = scale

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Input, float32 [C, H, W], normalised, and its class."""
        image, target = super().__getitem__(index)
        return self.scale.applied(image), target

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs float32 [B, C, H, W], normalised, and targets int64 [B]."""
        images, targets = super().batch(indices)
        return self.scale.applied(images), targets

    @property
    def inputs(self) -> torch.Tensor:
        """All inputs, float32 [N, C, H, W], normalised."""
        return self.scale.applied(scaled(self._inputs))

    @property
    def ids(self) -> Sequence[str]:
        """The id of each sample [N]."""
        return self._ids

    @property
    def white(self) -> float:
        """The brightest stored value: 255 of uint8, else the largest that occurs."""
        return 255.0 if self._inputs.dtype is torch.uint8 else float(self._inputs.max())

    def taken(self, indices: Sequence[int] | Indices) -> Self:
        """A data set of its own of the samples at the indices, in that order."""
        rows = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        ids = [self._ids[index] for index in rows.tolist()]
        return type(self)(self._inputs[rows], self._targets[rows], ids, self.scale)

    def replaced(self, inputs: torch.Tensor, targets: torch.Tensor) -> Self:
        """The same samples by id and scale with other stored inputs and targets."""
        return type(self)(inputs, targets, self._ids, self.scale)


@dataclass(frozen=True)
class Pool:
    """Training samples to deal out to clients, and the test samples that nobody trains on.

    `shape` is [C, H, W]. `groups` and `test_groups` name what each sample naturally belongs to,
    such as its speaker, where the data has that.
    """

    train: ScaledDataset
    test: ScaledDataset
    num_classes: int
    shape: tuple[int, ...]
    groups: Sequence[str] | None = None
    test_groups: Sequence[str] | None = None


@dataclass(frozen=True)
class Source:
    """All that a file or folder has, before it is cut: samples, and a group of each if any."""

    data: ScaledDataset
    num_classes: int
    groups: Sequence[str] | None = None

    def strata(self) -> NDArray[np.int64]:
        """What a draw keeps the shares of [N]: the class, within each group if there are any."""
        targets = self.data.targets.numpy()
        if self.groups is None:
            return targets
        _, numbers = np.unique(np.asarray(self.groups), return_inverse=True)
        return np.asarray(targets + self.num_classes * numbers, dtype=np.int64)

    def at(self, indices: Indices) -> Source:
        """The samples at the indices."""
        groups = None if self.groups is None else [self.groups[index] for index in indices.tolist()]
        return Source(self.data.taken(indices), self.num_classes, groups)

    def drawn(self, count: int | None, seed: int, of: str) -> Source:
        """So many of the samples by seed, classes in their shares; None or all takes them all."""
        if count is None or count == len(self.data):
            return self
        return self.at(stratified(self.strata(), count, seed, of))

    def split(self, test_share: float, seed: int) -> tuple[Source, Source]:
        """Training and test part, of each class (and group) by the share; disjoint, complete."""
        strata = self.strata()
        count = round(test_share * len(strata))
        test = stratified(strata, count, seed, "test samples")
        train = np.setdiff1d(np.arange(len(strata)), test)
        return self.at(train), self.at(test)


def stratified(strata: NDArray[np.int64], count: int, seed: int, of: str) -> Indices:
    """`count` ascending indices of `strata` [N] by seed, each stratum in its share to within one.

    What is left after rounding down goes to the largest remainders, ties by the seed. Raises
    DataError if there are fewer samples than asked for, or fewer asked for than strata.
    """
    values, sizes = np.unique(strata, return_counts=True)
    if not len(values) <= count <= len(strata):
        raise DataError(
            f"{count} {of} were asked for; choose from {len(values)} (one of each class) to "
            f"{len(strata)} (all there are)"
        )
    generator = np.random.default_rng([seed, len(strata), count])
    wanted = count * sizes / len(strata)
    quotas = np.floor(wanted).astype(np.int64)
    order = np.lexsort((generator.random(len(values)), quotas - wanted))
    quotas[order[: count - int(quotas.sum())]] += 1
    chosen = [
        generator.permutation(np.flatnonzero(strata == value))[:quota]
        for value, quota in zip(values, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def pooled(
    train: Source, test: Source, *, counts: tuple[int | None, int | None], seed: int
) -> Pool:
    """The pool of so many training and test samples of two sources of the same classes."""
    train = train.drawn(counts[0], seed, "training samples")
    test = test.drawn(counts[1], seed, "test samples")
    shape = tuple(train.data.stored.shape[1:])
    return Pool(train.data, test.data, train.num_classes, shape, train.groups, test.groups)
