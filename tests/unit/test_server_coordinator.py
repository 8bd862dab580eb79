"""A request whose caller hangs up while it is being written takes its full effect all the same."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.small_digits import SmallDigits
from support.state import BY_TEST

from fednot.errors import FednotError, Reason
from fednot.layers import layer_map
from fednot.manifest import Manifest
from fednot.tensors import flatten_module
from fednot.zoo import Mlp
from server.blocks import Memory
from server.cohorts import cohort
from server.cohorts.cohort import WorkPlan
from server.cohorts.in_process import InProcessCohort
from server.cohorts.remote import RemoteCohort
from server.coordinator import Coordinator
from server.federation import Defaults, Federation
from server.forgetting import StoredForgettings, name_of
from server.global_model import GlobalModel, InitialModel
from server.interruption import WorkInterruptedError
from server.ledger.opening import open_ledger
from server.metrics import Metrics, new_registry
from server.records import (
    NOBODY,
    ClientRecord,
    DeletionAsk,
    JobPhase,
    RecoveryPolicy,
    Round,
    RoundOutcome,
    RoundPolicy,
    Run,
    RunState,
    Scope,
    ScopeKind,
)
from server.rounds import RoundOrder, Rounds
from server.state import client_rows, job_rows, round_rows
from server.state.database import Database
from server.state.forget_rows import Answer
from server.state.stores.directory import DirectoryStore
from server.update_history import UpdateHistory


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    torch.set_num_threads(1)
    database = Database(tmp_path / "state.sqlite3")
    ledger = await open_ledger(tmp_path / "ledger.jsonl", database)
    module = Mlp(in_features=2, hidden=(2,), num_classes=2)
    manifest = Manifest.of(module)
    initial = InitialModel(flatten_module(module, manifest), manifest, lambda: layer_map(manifest))
    model = await GlobalModel.open(database, DirectoryStore(tmp_path / "versions"), initial)
    made = Federation(
        database=database,
        model=model,
        cohort=InProcessCohort({}),
        evaluator=None,
        defaults=Defaults(),
        metrics=Metrics(new_registry(), "test"),
        memory=Memory(None, tmp_path / "spill"),
        ledger=ledger,
    )
    record = ClientRecord("c1", 1.0, 1.0, 10, 0, "cpu")
    await database.write(BY_TEST, lambda c: client_rows.record_join(c, record))
    yield made
    database.close()
    ledger.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds SQLite's write lock, so that the server's writer thread waits inside its command."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("COMMIT")
        other.close()


def ask(request_id: str = "r1") -> DeletionAsk:
    return DeletionAsk(NOBODY, request_id, "c1", "", "", False, RecoveryPolicy(), "digest")


async def hung_up(call: Awaitable[object], path: Path) -> None:
    """Makes a call, and cancels it, as gRPC does, while its command waits for the lock."""
    with locked(path):
        calling = asyncio.ensure_future(call)
        await asyncio.sleep(0.1)
        calling.cancel()
        await asyncio.wait([calling], timeout=0.1)


async def eventually(holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 15
    while not (held := holds()) and time.monotonic() < ends:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return held


async def test_an_accepted_deletion_fences_and_interrupts_though_its_caller_hung_up(
    federation: Federation, tmp_path: Path
) -> None:
    coordinator = Coordinator(federation)
    at_work = asyncio.create_task(federation.work.run(asyncio.sleep(30)))
    await asyncio.sleep(0)
    await hung_up(coordinator.accept(ask()), tmp_path / "state.sqlite3")
    assert await eventually(lambda: federation.fences.bar_of("c1") is not None)
    jobs = await federation.database.read(job_rows.open_jobs)
    assert [job.phase for job in jobs] == [JobPhase.QUEUED]
    with pytest.raises(WorkInterruptedError):
        await asyncio.wait_for(at_work, 15)


async def test_a_repeated_request_gives_what_the_lost_reply_would_have_given(
    federation: Federation, tmp_path: Path
) -> None:
    coordinator = Coordinator(federation)
    await hung_up(coordinator.accept(ask()), tmp_path / "state.sqlite3")
    again = await coordinator.accept(ask())
    assert (again.request_id, again.job.phase) == ("r1", JobPhase.QUEUED)
    assert len(await federation.database.read(job_rows.open_jobs)) == 1
    assert federation.fences.bar_of("c1") is not None


async def test_a_cancelled_deletion_lifts_its_fence_though_its_caller_hung_up(
    federation: Federation, tmp_path: Path
) -> None:
    coordinator = Coordinator(federation)
    await coordinator.accept(ask())
    assert federation.fences.bar_of("c1") is not None
    await hung_up(coordinator.cancel("r1", NOBODY), tmp_path / "state.sqlite3")
    assert await eventually(lambda: federation.fences.bar_of("c1") is None)


async def test_a_confirmation_lets_its_client_train_though_it_hung_up(
    federation: Federation, tmp_path: Path
) -> None:
    """A client that was killed and started again has nothing more to report."""
    of_class = replace(ask(), client="", scopes=(Scope(ScopeKind.CLASS, label=1),))
    await Coordinator(federation).accept(of_class)
    assert federation.fences.owes("c1")
    forgettings = StoredForgettings(federation, RemoteCohort(lapse=1.0))
    order = await forgettings.pending("c1")
    assert order is not None
    said = Answer(1, "0" * 64, num_train_examples=9)
    await hung_up(forgettings.confirm("c1", name_of(order), said), tmp_path / "state.sqlite3")
    assert await eventually(lambda: not federation.fences.owes("c1"))
    assert await forgettings.pending("c1") is None


async def test_a_refused_request_changes_nothing(federation: Federation) -> None:
    coordinator = Coordinator(federation)
    with pytest.raises(FednotError) as refusal:
        await coordinator.accept(
            DeletionAsk(NOBODY, "r1", "nobody", "", "", False, RecoveryPolicy(), "digest")
        )
    assert refusal.value.reason is Reason.UNKNOWN_CLIENT
    assert not await federation.database.read(job_rows.open_jobs)
    assert len(federation.fences) == 0


async def trained_until_it_recovers(
    coordinator: Coordinator, run: Run, federation: Federation
) -> None:
    await coordinator.start_training(run, NOBODY)
    running = asyncio.create_task(coordinator.run())
    try:
        assert await eventually(lambda: "a recovery round" in federation.activity.waiting_for)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_deletion_between_the_agenda_and_its_work_is_served_at_once(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was nothing in hand to interrupt, and the round then waited for clients."""
    coordinator, looks = Coordinator(federation), 0
    left_running = Rounds._left_running

    async def overtaken(rounds: Rounds, order: RoundOrder) -> Round | None:
        nonlocal looks
        looks += 1
        if looks == 1:
            await coordinator.accept(ask())
        return await left_running(rounds, order)

    monkeypatch.setattr(Rounds, "_left_running", overtaken)
    run = Run(0, 1, 0, RunState.ACTIVE, 1.0, RoundPolicy(min_clients=1, client_wait=600.0), {})
    await trained_until_it_recovers(coordinator, run, federation)


async def test_a_deletion_just_after_a_round_was_begun_keeps_it_from_being_played(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """It comes while the server looks whether the updates are kept; its round is aborted then."""
    coordinator, looks, sent = Coordinator(federation), 0, []
    federation.cohort = InProcessCohort({name: SmallDigits(name[1:]) for name in ("c1", "c2")})

    async def overtaken(_history: UpdateHistory, _base: int) -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            await coordinator.accept(ask())
        return False

    def work(_cohort: InProcessCohort, plan: WorkPlan) -> AsyncIterator[cohort.Answer]:
        sent.append(plan)
        raise RuntimeError("the round was played")

    monkeypatch.setattr(UpdateHistory, "keeps", overtaken)
    monkeypatch.setattr(InProcessCohort, "work", work)
    run = Run(0, 1, 0, RunState.ACTIVE, 1.0, RoundPolicy(min_clients=2), {})
    await trained_until_it_recovers(coordinator, run, federation)
    assert not sent
    (row,) = await federation.database.read(lambda c: round_rows.list_rounds(c, 0, 10))
    assert row.outcome is RoundOutcome.ABORTED
    gc.collect()
    assert not [each for each in recwarn if "never awaited" in str(each.message)]


async def test_a_sweep_that_fails_does_not_keep_the_coordinator_from_ending(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cancelled in the middle of a step whose sweep then fails."""
    begun = asyncio.Event()

    async def fails(_: GlobalModel) -> int:
        await asyncio.sleep(0.2)
        raise RuntimeError("the store is gone")

    async def lasts(_: Coordinator) -> bool:
        begun.set()
        await asyncio.sleep(60)
        return True

    monkeypatch.setattr(GlobalModel, "sweep", fails)
    monkeypatch.setattr(Coordinator, "_step", lasts)
    running = asyncio.create_task(Coordinator(federation).run())
    await asyncio.wait_for(begun.wait(), 10)
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=10)
    assert done == {running}
