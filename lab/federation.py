"""The product's coordinator at work on a cell: the same code as in production but for the network.

A state directory holds what a server's does: `state.sqlite3`, `ledger.jsonl` and `versions/`.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import torch
from sqlalchemy import Connection

from lab.cells import Cell
from lab.costs import Costs, CountedCohort, TimedEvaluator
from lab.engines.engine import ANSWER_SECONDS, LabError, Opening
from lab.outcome import UPDATES, made_by
from lab.scene import PROBES, Scene
from server import initial_model
from server.blocks import Memory
from server.cohorts.cohort import Cohort
from server.coordinator import Coordinator
from server.federation import Defaults, Federation
from server.global_model import GlobalModel
from server.ledger.opening import open_ledger
from server.metrics import Metrics, new_registry
from server.phases import ENDED
from server.records import (
    NOBODY,
    ClientRecord,
    DeletionAsk,
    JobPhase,
    RecoveryPolicy,
    RoundPolicy,
    Run,
    RunState,
    VerificationPolicy,
)
from server.state import client_rows, deletion_rows, round_rows
from server.state.commits import Commit
from server.state.database import Database
from server.state.stores.directory import DirectoryStore
from server.update_history import UpdateHistory
from server.verification.server_data import ServerData

T = TypeVar("T")

POLL: Final = 0.05
NEVER: Final = 1_000_000
"""Rounds after which the rules for chance and plateau never come to hold."""

KEEPS_ALL: Final = 0.999
"""A tolerance that every model meets, so that the first attempt is kept after its whole budget."""


@dataclass(frozen=True)
class Workers:
    """The clients of a scene, within reach, and what they cost."""

    cohort: Cohort
    costs: Costs


@dataclass(frozen=True)
class Federated:
    """A federation whose coordinator is at work."""

    federation: Federation
    coordinator: Coordinator
    opening: Opening
    costs: Costs

    async def train(self) -> None:
        """Trains the base to its end. Raises LabError if the run fails."""
        run = run_of(self.opening.scene)
        await self.coordinator.start_training(run, NOBODY)
        found = await self._ended(
            lambda: self.federation.database.read(round_rows.latest_run),
            lambda run: run is not None and run.state is not RunState.ACTIVE,
            lambda run: run.rounds_done if run else 0,
            limit=ANSWER_SECONDS * run.rounds,
        )
        if found is None or found.state is not RunState.COMPLETED:
            raise LabError(f"the base was not trained: {found.failure if found else 'no run'}")

    async def forget(self) -> str:
        """Deletes the client that is next, to the job's end. Raises LabError if the job fails."""
        ask, database = ask_of(self.opening), self.federation.database
        await self.coordinator.accept(ask)
        found = await self._ended(
            lambda: database.read(
                lambda c: deletion_rows.get_deletion(c, ask.request_id, ask.caller)
            ),
            lambda deletion: deletion.job.phase in ENDED,
            lambda deletion: sum(len(made_by(attempt)) for attempt in deletion.job.attempts),
            limit=ANSWER_SECONDS * (ask.policy.max_rounds + 10),
        )
        if found.job.phase is not JobPhase.COMPLETED:
            raise LabError(f"the deletion of {ask.client} {found.job.phase}: {found.job.failure}")
        return found.job.id

    async def _ended(
        self,
        look: Callable[[], Awaitable[T]],
        is_over: Callable[[T], bool],
        rounds: Callable[[T], int],
        *,
        limit: float,
    ) -> T:
        until = time.monotonic() + limit
        while True:
            found = await look()
            self.opening.told(rounds(found))
            if is_over(found):
                return found
            if time.monotonic() > until:
                raise LabError(f"not over after {limit:.0f} s; {self._waiting()}")
            await asyncio.sleep(POLL)

    def _waiting(self) -> str:
        return self.federation.activity.waiting_for or "the clients are still at work"


def run_of(scene: Scene) -> Run:
    """The run that trains a base."""
    training = scene.spec.training
    policy = RoundPolicy(quorum=1.0, deadline=ANSWER_SECONDS, min_clients=len(scene.clients))
    return Run(0, training.rounds, 0, RunState.ACTIVE, time.time(), policy, training.overrides)


def ask_of(opening: Opening) -> DeletionAsk:
    """What is asked for when a cell deletes its next client. Raises LabError if it deletes none."""
    cell, gone = opening.cell, opening.gone
    if cell is None or not gone:
        raise LabError("no client is to be deleted")
    request_id = f"forget-{gone[-1]}"
    return DeletionAsk(
        caller=NOBODY,
        request_id=request_id,
        client=gone[-1],
        method=cell.method.name,
        layers=cell.method.layers,
        allow_unsafe_layers=True,
        policy=policy_of(cell, len(opening.scene.clients) - len(gone)),
        digest=hashlib.sha256(request_id.encode()).hexdigest(),
    )


def policy_of(cell: Cell, clients: int) -> RecoveryPolicy:
    """A cell's recovery over so many clients: its whole budget, or the product's stop rule."""
    shared = RecoveryPolicy(
        max_rounds=cell.rounds, min_clients=clients, round_deadline=ANSWER_SECONDS
    )
    if cell.recovery.stop == "target":
        told = cell.recovery
        return replace(shared, min_rounds=told.min_rounds, tolerance=told.tolerance)
    return replace(
        shared,
        min_rounds=1,
        tolerance=KEEPS_ALL,
        plateau_rounds=NEVER,
        full_budget=True,
        chance_rounds=NEVER,
    )


def defaults_of(opening: Opening) -> Defaults:
    """The server's settings; sums are float64, so that their order is without effect."""
    spec = opening.scene.spec
    return Defaults(
        rounds=RoundPolicy(quorum=1.0, deadline=ANSWER_SECONDS),
        keep_versions=2,
        accumulator=torch.float64,
        seed=spec.seed,
        recovery_momentum=opening.momentum,
        verification=VerificationPolicy(enabled=opening.undo, max_examples=spec.examples),
    )


@asynccontextmanager
async def federated(opening: Opening, workers: Workers) -> AsyncIterator[Federated]:
    """A federation whose coordinator works until the end of the block."""
    folder, scene = opening.folder, opening.scene
    task, defaults = scene.server_task, defaults_of(opening)
    probes = folder / PROBES if opening.undo else None
    database = Database(folder / "state.sqlite3")
    ledger = await open_ledger(folder / "ledger.jsonl", database)
    initial = initial_model.from_task(task, defaults.seed)
    federation = Federation(
        database=database,
        model=await GlobalModel.open(database, DirectoryStore(folder / "versions"), initial),
        cohort=CountedCohort(workers.cohort, workers.costs),
        evaluator=TimedEvaluator(task, scene.test, workers.costs),
        defaults=defaults,
        metrics=Metrics(new_registry(), "lab"),
        memory=Memory(None, folder / "spill"),
        ledger=ledger,
        server_data=ServerData(task, scene.test, probes),
    )
    store = DirectoryStore(folder / UPDATES)
    federation.history = UpdateHistory(database, store, scene.spec.keep_updates)
    await federation.history.open()
    await database.write(Commit.CLIENT_JOINED, lambda c: _join(c, scene))
    coordinator = Coordinator(federation)
    await coordinator.recover_state()
    worker = asyncio.create_task(coordinator.run())
    try:
        yield Federated(federation, coordinator, opening, workers.costs)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        database.close()
        ledger.close()


def _join(connection: Connection, scene: Scene) -> None:
    now = time.time()
    for name, size in scene.sizes.items():
        client_rows.record_join(connection, ClientRecord(name, now, now, size, 0, "cpu"))
