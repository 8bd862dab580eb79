"""What the spec of a base says, as tasks and data: the one place that knows how both are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from torch import nn

from fednot.data.in_memory import InMemoryDataset
from fednot.data.mnist5k import mnist5k
from fednot.data.subset import Subset
from fednot.demo.backdoor import Backdoor
from fednot.task import SampleDataset, Task
from fednot.zoo.cnn import Cnn
from lab.cells import BaseSpec, read_base
from lab.config import ConfigError

TASK: Final = "lab.setting:task_of"
"""Where server and client processes find their Task."""

_BACKDOORS: Final = (Backdoor(23, 23, 0), Backdoor(1, 1, 7), Backdoor(1, 23, 3), Backdoor(23, 1, 5))


@dataclass(frozen=True)
class Setting:
    """The data of a base: `parts` holds each client's training indices, `targets` are the clients
    to delete, in that order.
    """

    spec: BaseSpec
    train: InMemoryDataset
    test: InMemoryDataset
    parts: Mapping[str, Sequence[int]]
    targets: tuple[str, ...]

    @cached_property
    def server_task(self) -> Task:
        """The server's view."""
        return _DigitsTask(self, "")

    @cached_property
    def client_tasks(self) -> dict[str, Task]:
        """Each client's view, by name."""
        return {name: _DigitsTask(self, name) for name in sorted(self.parts)}

    def forgotten(self, client: str) -> SampleDataset:
        """The clean training samples of a client."""
        return Subset(self.train, list(self.parts[client]))

    def retained(self, gone: Sequence[str]) -> SampleDataset:
        """The clean training samples of all other clients."""
        names = (name for name in sorted(self.parts) if name not in gone)
        return Subset(self.train, [index for name in names for index in self.parts[name]])

    @torch.no_grad()
    def backdoor(self, model: nn.Module, client: str) -> float:
        """The share of triggered test images of other classes answered with the trigger's class."""
        door = _BACKDOORS[self.targets.index(client)]
        model.eval()
        answers = model(door.probes(self.test.inputs, self.test.targets)).argmax(dim=1)
        return float((answers == door.target).double().mean())


def setting_of(spec: BaseSpec) -> Setting:
    """Reads the data of a base and deals them out. Raises ConfigError, DataError."""
    if spec.dataset.name != "digits" or spec.partition.name != "iid":
        raise ConfigError("only digits, dealt out iid, are there yet")
    digits = mnist5k()
    generator = torch.Generator().manual_seed(spec.seed)
    order = torch.randperm(len(digits), generator=generator).tolist()
    count = spec.dataset.test or 1000
    held_out, shown = order[:count], order[count:][: spec.dataset.train or None]
    clients = spec.training.clients
    parts = {f"c{number}": range(len(shown))[number::clients] for number in range(clients)}
    return Setting(spec, _part(shown), _part(held_out), parts, targets_of(spec, list(parts)))


def targets_of(spec: BaseSpec, clients: Sequence[str]) -> tuple[str, ...]:
    """The clients to delete one after the other. Raises ConfigError if there is no such client."""
    names = sorted(clients)
    first = spec.training.forget or names[0]
    if first not in names:
        raise ConfigError(f"there is no client {first!r} to forget; there are {', '.join(names)}")
    return (first, *(name for name in names if name != first))


def task_of(base: str, client: str = "") -> Task:
    """The Task of a client, or of the server, of the base whose spec is in a file."""
    setting = setting_of(read_base(Path(base)))
    return setting.client_tasks[client] if client else setting.server_task


def _part(indices: Sequence[int]) -> InMemoryDataset:
    digits, chosen = mnist5k(), torch.tensor(indices)
    ids = [digits.sample_id(index) for index in indices]
    return InMemoryDataset(digits.inputs[chosen], digits.targets[chosen], ids)


class _DigitsTask(Task):
    def __init__(self, setting: Setting, client: str) -> None:
        self._setting = setting
        self._client = client

    def build_model(self) -> nn.Module:
        return Cnn()

    def train_data(self) -> SampleDataset:
        found = self._setting.forgotten(self._client)
        setting, spec = self._setting, self._setting.spec
        if self._client not in setting.targets[: spec.poisoned]:
            return found
        images, labels = setting.train.inputs, setting.train.targets
        chosen = torch.tensor(list(setting.parts[self._client]))
        door = _BACKDOORS[setting.targets.index(self._client)]
        generator = torch.Generator().manual_seed(spec.seed)
        images, labels = door.poisoned(images[chosen], labels[chosen], 0.8, generator)
        return InMemoryDataset(images, labels, [found.sample_id(i) for i in range(len(found))])

    def test_data(self) -> SampleDataset | None:
        return None if self._client else self._setting.test

    def evaluate(
        self, model: nn.Module, data: SampleDataset, device: torch.device
    ) -> Mapping[str, float]:
        metrics = dict(super().evaluate(model, data, device))
        if self._client or data is not self._setting.test:
            return metrics
        setting, target = self._setting, self._setting.targets[0]
        most = setting.spec.examples
        groups = {"forget": setting.forgotten(target), "retain": setting.retained([target])}
        for name, group in groups.items():
            part = Subset(group, range(len(group))[:: max(1, len(group) // most)])
            metrics[name] = super().evaluate(model, part, device)["accuracy"]
        if setting.spec.poisoned:
            metrics["backdoor"] = setting.backdoor(model, target)
        return metrics
