"""Clients of the product for benchmarks: its own client code with a trainer that trains nothing.

The one module of the benchmarks that knows how the client is put together. Several clients may
share a process and its event loop, as many clients on two cores would only measure the scheduler.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch

from benchmarks.identities import client_name
from benchmarks.models import manifest_of_bytes, random_flat
from benchmarks.processes import fork
from client.__main__ import run as run_client
from client.connection import Connection
from client.device import Device
from client.metrics import ClientMetrics
from client.settings import ClientSettings
from client.startup import Prepared
from client.state_directory import StateDirectory
from client.trainer import Trainer, Update
from client.worker import Worker
from fednot.identity.folder import WatchedFolder
from fednot.manifest import Manifest
from fednot.training import TrainContext

EXAMPLES = 100


@dataclass(frozen=True)
class ReadyTrainer(Trainer):
    """Answers every version with an update that was made beforehand; it has no Task."""

    ready: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))

    @classmethod
    def of(cls, manifest: Manifest, update: torch.Tensor) -> Self:
        """A trainer that answers with a flat update of this manifest."""
        nobody = Device(torch.device("cpu"), lambda _: None)
        return cls(None, manifest, range(EXAMPLES), None, nobody, ready=update)  # type: ignore[arg-type]

    def train(self, given: torch.Tensor, context: TrainContext) -> Update:
        """The update that was made beforehand."""
        return Update(self.ready, EXAMPLES, {}, 0.0)


class Record(ClientMetrics):
    """Writes when each download began and ended and each upload ended, by the monotonic clock."""

    name = ""
    path: Path | None = None
    times: dict[str, float]

    @classmethod
    def of(cls, name: str, path: Path | None) -> Self:
        """The record of a client, in a file of lines of JSON; None for no file."""
        made = cls.fresh()
        made.name, made.path = name, path
        made.times = {}
        return made

    def moved(self, direction: str, num_bytes: int) -> None:
        """A chunk moved; the first one of a download begins a row."""
        super().moved(direction, num_bytes)
        if direction == "download":
            self.times.setdefault("began", time.monotonic())

    def trained(self, seconds: float) -> None:
        """The update is ready and its upload begins."""
        super().trained(seconds)
        self.times["downloaded"] = time.monotonic()

    def work_ended(self, phase: str, outcome: str) -> None:
        """The work ended, and with it the row."""
        super().work_ended(phase, outcome)
        row = {"client": self.name, "outcome": outcome, "ended": time.monotonic()} | self.times
        self.times = {}
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def prepared(given: argparse.Namespace, index: int, trainer: Trainer) -> Prepared:
    """A client that is ready to dial."""
    name = client_name(index)
    identity = given.identities / name if given.identities else None
    settings = ClientSettings(
        name=name,
        server=given.server,
        task="none.py:None",
        device="cpu",
        state_dir=given.folder / name,
        http_address="",
        identity=identity,
        insecure=identity is None,
    )
    metrics = Record.of(name, given.record)
    return Prepared(
        settings=settings,
        name=name,
        identity=WatchedFolder(identity) if identity else None,
        state=StateDirectory.open(settings.state_dir, name),
        trainer=trainer,
        metrics=metrics,
        connection=Connection(settings.server, metrics),
        status=None,
    )


async def _run_all(all_prepared: list[Prepared]) -> None:
    await asyncio.gather(*(run_client(each, Worker()) for each in all_prepared))


def _process(given: argparse.Namespace, process: int) -> None:
    torch.set_num_threads(1)
    manifest = manifest_of_bytes(given.bytes)
    trainer = ReadyTrainer.of(manifest, random_flat(manifest, seed=process))
    mine = range(given.first + process, given.first + given.clients, given.processes)
    asyncio.run(_run_all([prepared(given, index, trainer) for index in mine]))


def main() -> None:
    """Runs the clients until the server or whoever started them is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, help="index of the first client")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--identities", type=Path)
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):
        fork(given.processes, lambda process: _process(given, process))


if __name__ == "__main__":
    main()
