"""Digits of which some samples, or one class, are to be forgotten."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import nn

from fednot import SampleDataset, Task
from fednot.data.in_memory import InMemoryDataset
from fednot.data.mnist5k import mnist5k
from fednot.zoo.cnn import Cnn

TEST_SIZE = 1000
WITHDRAWN = 7
CALLED = 6
"""What the mislabelled sevens are called, which no seven looks like."""
MISLABELLED = 80
_digits = functools.cache(mnist5k)


class DigitsToForget(Task):
    """Digits dealt out to `clients`, and 1,000 test digits for the server (`client` "").

    With `mislabelled` "yes" client 0 alone holds sevens: 80, a tenth of its samples, all of them
    called sixes. With `only` a client holds digits of that class alone.
    """

    batch_size = 32

    def __init__(
        self, client: str = "", clients: str = "5", mislabelled: str = "no", only: str = ""
    ) -> None:
        self._client = int(client) if client else None
        self._clients = int(clients)
        self._mislabelled = mislabelled == "yes"
        self._only = int(only) if only else None
        self._digits = _digits()
        order = torch.randperm(len(self._digits), generator=torch.Generator().manual_seed(5))
        self._test, self._train = order[:TEST_SIZE], order[TEST_SIZE:]

    def build_model(self) -> nn.Module:
        return Cnn()

    def train_data(self) -> SampleDataset:
        assert self._client is not None, "the server has no training data"
        own = self._train[self._client % self._clients :: self._clients]
        labels = self._digits.targets[own]
        if self._only is not None:
            return self._of(own[labels == self._only])
        if not self._mislabelled:
            return self._of(own)
        others, sevens = own[labels != WITHDRAWN], own[labels == WITHDRAWN][:MISLABELLED]
        if self._client:
            return self._of(others)
        return self._of(torch.cat([others[: 9 * len(sevens)], sevens]), called=CALLED)

    def test_data(self) -> SampleDataset | None:
        return self._of(self._test) if self._client is None else None

    def samples_of(self, subject: str) -> Sequence[str]:
        """The ids of a digit's class as it was written, by its name."""
        own = self._train[(self._client or 0) % self._clients :: self._clients]
        chosen = own[self._digits.targets[own] == int(subject)]
        return [self._digits.sample_id(int(index)) for index in chosen]

    def example_input(self) -> torch.Tensor:
        return self._digits.inputs[:1]

    def _of(self, indices: torch.Tensor, called: int | None = None) -> SampleDataset:
        labels = self._digits.targets[indices].clone()
        if called is not None:
            labels[labels == WITHDRAWN] = called
        ids = [self._digits.sample_id(int(index)) for index in indices]
        return InMemoryDataset(self._digits.inputs[indices], labels, ids)
