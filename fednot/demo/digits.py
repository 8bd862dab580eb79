"""The demonstration's Task: 5,000 MNIST digits, dealt out to clients, the first ones poisoned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from fednot.data.in_memory import InMemoryDataset
from fednot.data.mnist5k import mnist5k
from fednot.demo.backdoor import BACKDOORS
from fednot.task import SampleDataset, Task
from fednot.zoo.cnn import Cnn

TEST_SIZE = 1000
POISONED_SHARE = 0.8


class DigitsTask(Task):
    """Digits of one client, or, without a client, only the test digits.

    The first `poisoned` clients each carry a backdoor of their own in 80 % of their images.
    Evaluation adds "backdoor_success", the share of triggered test digits of other classes that the
    model answers with the first backdoor's class, and "backdoor_success_1" for the second.
    """

    def __init__(
        self, client: str = "", clients: str = "5", seed: str = "0", poisoned: str = "1"
    ) -> None:
        self._client = int(client) if client else None
        self._clients = int(clients)
        self._poisoned = int(poisoned)
        self._seed = int(seed)
        self._digits = mnist5k()
        generator = torch.Generator().manual_seed(self._seed)
        self._order = torch.randperm(len(self._digits), generator=generator)

    def build_model(self) -> nn.Module:
        """A CNN of two convolutions."""
        return Cnn()

    def train_data(self) -> SampleDataset:
        """The client's digits, the poisoned ones among them."""
        if self._client is None:
            raise ValueError("the demonstration's server has no training data")
        return self._as_own(self._order[TEST_SIZE:][self._client :: self._clients])

    def test_data(self) -> SampleDataset | None:
        """The held-out digits, on the server only."""
        if self._client is not None:
            return None
        held_out = self._order[:TEST_SIZE]
        ids = [self._digits.sample_id(int(index)) for index in held_out]
        return InMemoryDataset(self._digits.inputs[held_out], self._digits.targets[held_out], ids)

    def unseen_data(self, forgotten: SampleDataset) -> SampleDataset | None:
        """The held-out digits, made as this client's own are: poisoned where it is poisoned."""
        return self._as_own(self._order[:TEST_SIZE])

    def write_probe(self, path: Path) -> None:
        """Writes the first backdoor's probe, of test digits: what an operator may know of it."""
        held_out = self._order[:TEST_SIZE]
        BACKDOORS[0].write_probe(
            path, self._digits.inputs[held_out], self._digits.targets[held_out]
        )

    def _as_own(self, indices: torch.Tensor) -> SampleDataset:
        images, labels = self._digits.inputs[indices], self._digits.targets[indices]
        if self._client is not None and self._client < self._poisoned:
            generator = torch.Generator().manual_seed(self._seed)
            backdoor = BACKDOORS[self._client]
            images, labels = backdoor.poisoned(images, labels, POISONED_SHARE, generator)
        return InMemoryDataset(images, labels, [self._digits.sample_id(int(i)) for i in indices])

    def example_input(self) -> torch.Tensor:
        """One digit."""
        return self._digits.inputs[:1]

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, data: SampleDataset, device: torch.device
    ) -> Mapping[str, float]:
        """Accuracy on the test digits and the success of each backdoor."""
        metrics = dict(super().evaluate(model, data, device))
        images, labels = zip(*(data[index] for index in range(len(data))), strict=True)
        stacked, targets = torch.stack(images).to(device), torch.tensor(labels, device=device)
        for number, backdoor in enumerate(BACKDOORS[: self._poisoned]):
            answers = model(backdoor.probes(stacked, targets)).argmax(dim=1)
            key = f"backdoor_success_{number}" if number else "backdoor_success"
            metrics[key] = float((answers == backdoor.target).double().mean())
        return metrics
