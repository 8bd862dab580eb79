"""An upload desk with sessions that have work, and a round that settles what comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from fednot.errors import FednotError
from fednot.layers import layer_map
from fednot.manifest import Manifest
from fednot.tensors import as_bytes, empty, flatten_module, views
from fednot.v1 import federation_pb2
from fednot.wire import checksum
from fednot.zoo import Mlp
from server.blocks import Memory
from server.cohorts.cohort import Update, WorkKind, WorkPlan
from server.cohorts.in_process import InProcessCohort
from server.cohorts.remote import Assignment, RemoteCohort, Session
from server.federation import Defaults, Federation
from server.global_model import GlobalModel, InitialModel
from server.ledger.opening import open_ledger
from server.metrics import Metrics, new_registry
from server.records import RoundPhase
from server.state.database import Database
from server.state.stores.directory import DirectoryStore
from server.uploads.desk import UploadDesk, UploadLimits
from server.uploads.upload import Upload

SHORT = 0.2


@dataclass
class Counter:
    """A desk; `counted` are the decoded updates in the order in which they came to the round."""

    federation: Federation
    cohort: RemoteCohort
    desk: UploadDesk
    work: dict[str, tuple[Session, Assignment]]
    counted: list[torch.Tensor] = field(default_factory=list)
    refuse: FednotError | None = None
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    def header(
        self, name: str, update: torch.Tensor, **changes: object
    ) -> federation_pb2.UpdateHeader:
        """A correct header for the client's update but for the changes."""
        return header_of(self.federation.model, self.work[name], update, **changes)

    async def open(self, name: str, update: torch.Tensor, **changes: object) -> Upload:
        return await self.desk.open(self.header(name, update, **changes))

    async def send(self, upload: Upload, update: torch.Tensor, stop: int | None = None) -> None:
        """Writes the bytes from the upload's offset on."""
        upload.check().write(as_bytes(update)[upload.offset : stop], upload)

    async def whole(self, name: str, update: torch.Tensor) -> int:
        """A complete upload; the round it counts in."""
        upload = await self.open(name, update)
        await self.send(upload, update)
        return await self.desk.finish(upload, upload.header.xxh3_128)

    def metric(self, sample: str) -> float:
        text, _ = self.federation.metrics.render()
        (row,) = (line for line in text.decode().splitlines() if line.startswith(sample + " "))
        return float(row.removeprefix(sample))


@asynccontextmanager
async def counter(
    federation: Federation, *names: str, memory: Memory | None = None, **limits: float
) -> AsyncIterator[Counter]:
    """A desk where clients of these names have work on the current version."""
    cohort, model = RemoteCohort(lapse=30.0), federation.model
    if memory is not None:
        federation.memory = memory
    sessions = [Session(name, 10, 0, "cpu", last_seen=time.monotonic()) for name in names]
    for session in sessions:
        cohort.open(session)
    plan = WorkPlan(WorkKind.TRAIN, 1, RoundPhase.TRAINING, model.current, model.flat, names, 60.0)
    desk = UploadDesk(federation, cohort, UploadLimits(**limits))  # type: ignore[arg-type]
    made = Counter(federation, cohort, desk, {})
    made.hold.set()
    running = asyncio.create_task(_settle(made, plan))
    for session in sessions:
        assignment = await cohort.next_assignment(session.client, 5)
        assert assignment is not None
        made.work[session.client] = (session, assignment)
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _settle(made: Counter, plan: WorkPlan) -> None:
    async with aclosing(made.cohort.work(plan)) as answers:
        async for answer in answers:
            if isinstance(answer, Update):
                await made.hold.wait()
                manifest = made.federation.model.manifest
                made.counted.append(answer.codec.decode(answer.payload.tensor, manifest))
                answer.settle(made.refuse)


@asynccontextmanager
async def small_federation(
    folder: Path, module: nn.Module | None = None
) -> AsyncIterator[Federation]:
    """A federation with a model, of a few weights if none is given; no coordinator runs."""
    torch.set_num_threads(1)
    database = Database(folder / "state.sqlite3")
    ledger = await open_ledger(folder / "ledger.jsonl", database)
    module = module or Mlp(in_features=4, hidden=(8,), num_classes=4)
    manifest = Manifest.of(module)
    initial = InitialModel(flatten_module(module, manifest), manifest, lambda: layer_map(manifest))
    yield Federation(
        database=database,
        model=await GlobalModel.open(database, DirectoryStore(folder / "versions"), initial),
        cohort=InProcessCohort({}),
        evaluator=None,
        defaults=Defaults(),
        metrics=Metrics(new_registry(), "test"),
        memory=Memory(None, folder / "spill"),
        ledger=ledger,
    )
    database.close()
    ledger.close()


def header_of(
    model: GlobalModel,
    work: tuple[Session, Assignment],
    update: torch.Tensor,
    **changes: object,
) -> federation_pb2.UpdateHeader:
    """A correct header for a plain update on the current version but for the changes."""
    session, assignment = work
    values = {
        "session": federation_pb2.Session(client=session.client, id=session.id),
        "work_id": assignment.id,
        "base_version": model.current.number,
        "generation": model.current.generation,
        "manifest_digest": model.manifest.digest,
        "num_examples": 1,
        "num_bytes": update.numel(),
        "xxh3_128": checksum(as_bytes(update)),
    }
    return federation_pb2.UpdateHeader(**{**values, **changes})  # type: ignore[arg-type]


def update_of(federation: Federation, value: float) -> torch.Tensor:
    """An update that moves every weight by the same step."""
    manifest = federation.model.manifest
    update = empty(manifest)
    for view in views(update, manifest).values():
        view.fill_(value)
    return update
