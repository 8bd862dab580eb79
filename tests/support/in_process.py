"""A federation within the test's process: production's coordinator over an in-process cohort."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from support.state import BY_TEST

from fednot import Task
from server import initial_model
from server.blocks import Memory
from server.cohorts.in_process import InProcessCohort
from server.coordinator import Coordinator
from server.evaluation import ServerEvaluator
from server.federation import Defaults, Federation
from server.global_model import GlobalModel
from server.ledger.opening import open_ledger
from server.metrics import Metrics, new_registry
from server.phases import ENDED
from server.records import (
    NOBODY,
    Assurance,
    Caller,
    ClientRecord,
    Deletion,
    DeletionAsk,
    RecoveryPolicy,
    RoundPolicy,
    Run,
    RunState,
)
from server.state import client_rows, deletion_rows, round_rows
from server.state.database import Database
from server.state.model_store import ModelStore
from server.state.stores.directory import DirectoryStore
from server.update_history import UpdateHistory
from server.verification.server_data import ServerData

POLL = 0.02


def asked(
    client: str,
    *,
    method: str = "",
    layers: str = "",
    policy: RecoveryPolicy | None = None,
    caller: Caller = NOBODY,
    assurance: Assurance = Assurance.BEHAVIOUR,
) -> DeletionAsk:
    """What a caller asks for who wants a client deleted, under the id `forget-CLIENT`."""
    request_id = f"forget-{client}"
    return DeletionAsk(
        caller=caller,
        request_id=request_id,
        client=client,
        method=method,
        layers=layers,
        allow_unsafe_layers=False,
        policy=policy or RecoveryPolicy(),
        digest=hashlib.sha256(request_id.encode()).hexdigest(),
        assurance=assurance,
    )


class InProcessFederation:
    """A coordinator at work, with a few words for tests."""

    def __init__(self, federation: Federation, coordinator: Coordinator, store: ModelStore) -> None:
        self.federation = federation
        self.coordinator = coordinator
        self.store = store

    async def train(self, rounds: int) -> Run:
        """Trains so many rounds and returns the run at its end."""
        run = Run(0, rounds, 0, RunState.ACTIVE, time.time(), RoundPolicy(), {})
        await self.coordinator.start_training(run, NOBODY)
        while True:
            found = await self.federation.database.read(round_rows.latest_run)
            if found is not None and found.state is not RunState.ACTIVE:
                return found
            await asyncio.sleep(POLL)

    async def forget(
        self,
        client: str,
        *,
        method: str = "",
        layers: str = "",
        policy: RecoveryPolicy | None = None,
        caller: Caller = NOBODY,
        assurance: Assurance = Assurance.BEHAVIOUR,
    ) -> Deletion:
        """Deletes a client and returns the deletion at its job's end."""
        ask = asked(
            client,
            method=method,
            layers=layers,
            policy=policy,
            caller=caller,
            assurance=assurance,
        )
        await self.coordinator.accept(ask)
        while True:
            found = await self.federation.database.read(
                lambda c: deletion_rows.get_deletion(c, ask.request_id, caller)
            )
            if found.job.phase in ENDED:
                return found
            await asyncio.sleep(POLL)


@asynccontextmanager
async def in_process(
    folder: Path,
    server_task: Task,
    client_tasks: Mapping[str, Task],
    defaults: Defaults,
    probes: Path | None = None,
    keep_updates: int = 0,
) -> AsyncIterator[InProcessFederation]:
    """A federation of these tasks whose coordinator runs until the end of the block; it keeps the
    updates of every so many rounds."""
    database = Database(folder / "state.sqlite3")
    ledger = await open_ledger(folder / "ledger.jsonl", database)
    store = DirectoryStore(folder / "versions")
    initial = initial_model.from_task(server_task, defaults.seed)
    data = server_task.test_data()
    federation = Federation(
        database=database,
        model=await GlobalModel.open(database, store, initial),
        cohort=InProcessCohort(client_tasks),
        evaluator=ServerEvaluator(server_task, data) if data is not None else None,
        defaults=defaults,
        metrics=Metrics(new_registry(), "test"),
        memory=Memory(None, folder / "spill"),
        ledger=ledger,
        server_data=ServerData(server_task, data, probes),
    )
    updates = DirectoryStore(folder / "updates") if keep_updates else None
    federation.history = UpdateHistory(database, updates, keep_updates)
    for name, task in client_tasks.items():
        record = ClientRecord(name, time.time(), time.time(), len(task.train_data()), 0, "cpu")
        await database.write(BY_TEST, lambda c, record=record: client_rows.record_join(c, record))
    coordinator = Coordinator(federation)
    await coordinator.recover_state()
    worker = asyncio.create_task(coordinator.run())
    try:
        yield InProcessFederation(federation, coordinator, store)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        database.close()
        ledger.close()
