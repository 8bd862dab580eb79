"""What the spec of a base says, as tasks and data, and what its deletions are scored on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from fednot.data.errors import DataError
from fednot.task import SampleDataset, Task
from lab.cells import BaseSpec, read_base
from lab.config import ConfigError
from lab.datasets import NAMES, Pool, ScaledDataset, load, stratified
from lab.dealt import Dealt
from lab.models import NAMES as MODELS
from lab.partitions import partition
from lab.settings import Setting
from lab.tasks import LabServerTask, LabTask

PROBES: Final = "probes"
"""The folder of sealed probes in a state directory."""

_BINARY: Final = "from https://www.cs.toronto.edu/~kriz/cifar.html, the binary version"
FILES: Final = {
    "cifar10": "it has cifar-10-batches-bin with data_batch_1.bin to data_batch_5.bin and "
    f"test_batch.bin, {_BINARY}",
    "cifar100": f"it has cifar-100-binary with train.bin and test.bin, {_BINARY}",
    "caltech101": "it has 101_ObjectCategories, a folder of images a class, from "
    "https://data.caltech.edu/records/mzrjq-6wc02",
    "spoken-digits": "it has one .npz that `python -m lab.datasets.spoken_digits` makes from the "
    "recordings of https://github.com/Jakobovski/free-spoken-digit-dataset",
}
"""What has to be in the folder of --data, and where it comes from."""

TASK: Final = "lab.scene:task_of"
"""Where server and client processes find their Task."""


class ServerTask(LabServerTask):
    """The server's view, with data of its own to distil on."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.dealt, scene.targets[:1])
        self._proxy = scene.proxy

    def proxy_data(self) -> SampleDataset | None:
        """Samples that were held out for it, of which it reads the inputs alone."""
        return self._proxy


@dataclass(frozen=True)
class Scene:
    """A base's data, dealt out; `targets` are all clients in the order in which they are deleted,
    `proxy` what the server distils on, if anything.
    """

    spec: BaseSpec
    dealt: Dealt
    targets: tuple[str, ...]
    proxy: SampleDataset | None

    @cached_property
    def server_task(self) -> ServerTask:
        """The server's view, which scores the deletion of the first target until told otherwise."""
        return ServerTask(self)

    @cached_property
    def client_tasks(self) -> dict[str, Task]:
        """Each client's view, by name."""
        return {name: LabTask(self.dealt, name) for name in self.clients}

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients, by name."""
        return tuple(sorted(self.dealt.parts))

    @property
    def sizes(self) -> Mapping[str, int]:
        """How many samples each client trains on."""
        return {name: len(part) for name, part in self.dealt.parts.items()}

    @property
    def test(self) -> ScaledDataset:
        """The test samples."""
        return self.dealt.pool.test

    def forgotten(self, client: str) -> ScaledDataset:
        """What a client trained on."""
        return self.dealt.own(client)

    def retained(self, gone: Sequence[str]) -> ScaledDataset:
        """What all other clients trained on."""
        return self.dealt.of_all([name for name in self.clients if name not in gone])

    def write_probes(self, folder: Path) -> None:
        """Writes a sealed probe of each poisoned client."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.dealt.backdoors:
            self.dealt.write_probe(name, folder / f"client-{name}.npz")

    def triggered(self) -> dict[str, ScaledDataset]:
        """The triggered test images of each poisoned client, all of its target class."""
        return {name: self.dealt.triggered(name) for name in self.dealt.backdoors}


def scene_of(spec: BaseSpec) -> Scene:
    """Reads the data of a base and deals them out. Raises ConfigError, DataError."""
    _check(spec)
    setting = setting_of(spec)
    pool, proxy = _held_out(_loaded(spec, setting), spec)
    parts = partition(pool, setting.partition, setting.clients, setting.seed, **setting.options())
    targets = targets_of(spec, list(parts))
    poisoned = replace(setting, poisoned=targets[: spec.poisoned])
    return Scene(spec, Dealt(poisoned, pool, parts), targets, proxy)


def setting_of(spec: BaseSpec) -> Setting:
    """The data's setting of a base, before anybody is poisoned."""
    dataset, training, dealt = spec.dataset, spec.training, spec.partition
    natural = dealt.name == "natural"
    return Setting(
        dataset=dataset.name,
        folder=_folder(spec),
        train=dataset.train or None,
        test=dataset.test or None,
        size=dataset.size,
        partition=dealt.name,
        clients=0 if natural else training.clients,
        model=spec.model.name,
        batch_size=training.batch_size,
        local_epochs=training.local_epochs,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        augment=dataset.augment,
        scored=spec.examples,
        seed=spec.seed,
        alpha=dealt.alpha,
        classes=dealt.classes,
        minimum=dealt.minimum,
    )


def targets_of(spec: BaseSpec, clients: Sequence[str]) -> tuple[str, ...]:
    """The clients to delete one after the other. Raises ConfigError if there is no such client."""
    names = sorted(clients)
    first = spec.training.forget or names[0]
    if first not in names:
        raise ConfigError(f"there is no client {first!r} to forget; there are {', '.join(names)}")
    return (first, *(name for name in names if name != first))


def task_of(base: str, client: str = "", forget: str = "") -> Task:
    """The Task of a client, or of the server, of the base whose spec is in a file.

    `forget` names, with commas, the clients whose deletion the server scores.
    """
    scene = scene_of(read_base(Path(base)))
    if client:
        return scene.client_tasks[client]
    if forget:
        scene.server_task.watch(forget.split(","))
    return scene.server_task


def _check(spec: BaseSpec) -> None:
    for what, name, known in (
        ("dataset", spec.dataset.name, NAMES),
        ("model", spec.model.name, MODELS),
    ):
        if name not in known:
            raise ConfigError(f"there is no {what} {name!r}; there are {', '.join(known)}")


def _loaded(spec: BaseSpec, setting: Setting) -> Pool:
    dataset = spec.dataset
    try:
        return load(
            setting.dataset,
            setting.folder,
            train=dataset.train + dataset.proxy if dataset.train else None,
            test=setting.test,
            seed=setting.seed,
            size=setting.size,
        )
    except DataError as error:
        expected = FILES.get(dataset.name)
        raise DataError(f"{error}; {expected}" if expected else str(error)) from error


def _folder(spec: BaseSpec) -> Path | None:
    if spec.dataset.name == "digits":
        return None
    if spec.data is None:
        name = spec.dataset.name
        raise DataError(f"{name} is read from a folder; give it with --data; {FILES.get(name, '')}")
    return spec.data / spec.dataset.folder


def _held_out(pool: Pool, spec: BaseSpec) -> tuple[Pool, SampleDataset | None]:
    """The pool without what the server distils on, and that."""
    if not spec.dataset.proxy:
        return pool, None
    chosen = stratified(pool.train.targets.numpy(), spec.dataset.proxy, spec.seed, "proxy samples")
    left = np.setdiff1d(np.arange(len(pool.train)), chosen)
    groups = None if pool.groups is None else [pool.groups[index] for index in left.tolist()]
    smaller = replace(pool, train=pool.train.taken(left), groups=groups)
    return smaller, pool.train.taken(chosen)
