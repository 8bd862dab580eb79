"""The data of one federation: what each client trains on, and what its deletion is measured by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch

from fednot.data.errors import DataError
from fednot.demo.backdoor import Backdoor
from lab.datasets import Pool, ScaledDataset, load
from lab.partitions import partition
from lab.settings import Setting

CLASS_STEP: Final = 7


class Dealt:
    """A pool dealt out to clients by a setting, some of them with a backdoor.

    A client's samples are poisoned by the seed and its place among the poisoned; every process that
    is given the same setting has the same samples under the same ids.
    """

    def __init__(self, setting: Setting, pool: Pool, parts: Mapping[str, Sequence[int]]) -> None:
        """Raises DataError if a poisoned client is none of the federation's."""
        if unknown := [name for name in setting.poisoned if name not in parts]:
            raise DataError(f"{unknown[0]} is to be poisoned and no client; there are {[*parts]}")
        self.setting = setting
        self.pool = pool
        self.parts = parts
        self.backdoors = {
            name: backdoor(number, pool) for number, name in enumerate(setting.poisoned)
        }
        self._own: dict[str, ScaledDataset] = {}

    @classmethod
    def of(cls, setting: Setting) -> Self:
        """Reads the data (once in a process, as long as it is the last one read) and deals it out.

        Raises DataError.
        """
        pool = _pool(
            setting.dataset, setting.folder, setting.train, setting.test, setting.seed, setting.size
        )
        parts = partition(
            pool, setting.partition, setting.clients, setting.seed, **setting.options()
        )
        return cls(setting, pool, parts)

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients' names."""
        return tuple(self.parts)

    def own(self, client: str) -> ScaledDataset:
        """What a client trains on, the poisoned images among it. Raises DataError for no client."""
        if client not in self._own:
            if client not in self.parts:
                raise DataError(f"{client} is no client; there are {', '.join(self.parts)}")
            part = self.pool.train.taken(self.parts[client])
            self._own[client] = self._poisoned(client, part)
        return self._own[client]

    def of_all(self, clients: Collection[str], most: int = 0) -> ScaledDataset:
        """What several clients train on, in one; at most so many samples unless `most` is 0."""
        if not clients:
            raise DataError("no client's data was asked for; name one or more")
        owned = [self.own(client) for client in self.parts if client in clients]
        return self._drawn(joined(owned), most)

    def unseen(self, client: str) -> ScaledDataset:
        """Test samples spread as the client's own: of its group if there are any, else as many of
        each class as its share says, poisoned if the client is.
        """
        test, groups = self.pool.test, self.pool.test_groups
        if groups is not None and client in groups:
            alike = [index for index, group in enumerate(groups) if group == client]
        else:
            targets = self.pool.train.targets[self.parts[client]]
            alike = as_mixed(test.targets, targets, self.pool.num_classes, self.setting.seed)
        return self._poisoned(client, test.taken(alike))

    def triggered(self, client: str, most: int = 0) -> ScaledDataset:
        """The test images of other classes with the client's trigger, all of its target class.

        The accuracy on them is the backdoor's success. At most so many, drawn by the seed, unless
        `most` is 0. Raises DataError if the client has no backdoor.
        """
        trigger = self._backdoor(client)
        test = self._drawn(self._others(trigger), most)
        targets = torch.full_like(test.targets, trigger.target)
        return test.replaced(trigger.stamped(test.stored), targets)

    def write_probe(self, client: str, path: Path) -> None:
        """Writes the sealed probe of verification for a poisoned client, of test images."""
        trigger = self._backdoor(client)
        np.savez(
            path,
            clean_x=self._others(trigger).inputs.numpy(),
            trigger_x=self.triggered(client).inputs.numpy(),
            trigger_target=np.int64(trigger.target),
        )

    def _drawn(self, data: ScaledDataset, most: int) -> ScaledDataset:
        if not most or len(data) <= most:
            return data
        order = np.random.default_rng(self.setting.seed).permutation(len(data))
        return data.taken(np.sort(order[:most]))

    def _others(self, trigger: Backdoor) -> ScaledDataset:
        test = self.pool.test
        return test.taken(torch.nonzero(test.targets != trigger.target).flatten().tolist())

    def _backdoor(self, client: str) -> Backdoor:
        if client not in self.backdoors:
            raise DataError(f"{client} has no backdoor; name it among the poisoned clients")
        return self.backdoors[client]

    def _poisoned(self, client: str, data: ScaledDataset) -> ScaledDataset:
        trigger = self.backdoors.get(client)
        if trigger is None:
            return data
        seed = 1000 * self.setting.seed + list(self.backdoors).index(client)
        share, generator = self.setting.poisoned_share, torch.Generator().manual_seed(seed)
        return data.replaced(*trigger.poisoned(data.stored, data.targets, share, generator))


def backdoor(number: int, pool: Pool) -> Backdoor:
    """The backdoor of the so-manieth poisoned client: a place and a class of its own.

    Places go round the corners, then the middles of the edges, a pixel from the rim; after eight
    they come again with another class. The square's side is an eighth of the image's.
    """
    _, height, width = pool.shape
    size = max(2, round(height / 8))
    low, right = height - size - 1, width - size - 1
    middle_row, middle = (height - size) // 2, (width - size) // 2
    corners = [(low, right), (1, 1), (low, 1), (1, right)]
    edges = [(middle_row, right), (middle_row, 1), (1, middle), (low, middle)]
    row, column = (corners + edges)[number % 8]
    step = CLASS_STEP if pool.num_classes % CLASS_STEP else 1
    target = number * step % pool.num_classes
    return Backdoor(row, column, target, size, pool.train.white)


def as_mixed(among: torch.Tensor, like: torch.Tensor, classes: int, seed: int) -> list[int]:
    """Ascending indices of `among` [N], as many as there can be with the classes' shares of `like`.

    Both are classes; draws follow from the seed.
    """
    there = torch.bincount(among, minlength=classes).double()
    shares = torch.bincount(like, minlength=classes).double() / len(like)
    total = float((there / shares)[shares > 0].min())
    counts = (shares * total).round().long()
    generator = np.random.default_rng(seed)
    chosen = [
        generator.permutation(np.flatnonzero(among.numpy() == label))[:count]
        for label, count in enumerate(counts.tolist())
    ]
    return sorted(np.concatenate(chosen).tolist())


def joined(parts: Sequence[ScaledDataset]) -> ScaledDataset:
    """Several data sets of one scale as one, in their order."""
    inputs = torch.cat([part.stored for part in parts])
    targets = torch.cat([part.targets for part in parts])
    ids = [sample_id for part in parts for sample_id in part.ids]
    return ScaledDataset(inputs, targets, ids, parts[0].scale)


@lru_cache(maxsize=1)
def _pool(
    name: str, folder: Path | None, train: int | None, test: int | None, seed: int, size: int
) -> Pool:
    return load(name, folder, train=train, test=test, seed=seed, size=size)
