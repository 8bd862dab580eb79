"""A second approval in a running federation: the coordinator of production, clients in-process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from sqlalchemy import update
from support.in_process import InProcessFederation, asked, in_process
from support.small_digits import SmallDigits
from support.state import BY_TEST, DORA, EMIL, OLGA

from fednot.audit_chain import check
from fednot.errors import FednotError, Reason
from server.federation import Defaults
from server.records import (
    ApprovalState,
    Deletion,
    JobPhase,
    RecoveryPolicy,
    RoundOutcome,
    RoundPolicy,
    Run,
    RunState,
)
from server.state import audit_rows, deletion_rows, pseudonym_rows, round_rows, version_rows
from server.state.schema import jobs

STEPS = {
    *(f"job.{phase}" for phase in ("queued", "negating", "recovering", "verifying", "cancelled")),
    "versions.destroyed",
}
TWICE = Defaults(require_approval=True)
LONG = Run(0, 500, 0, RunState.ACTIVE, time.time(), RoundPolicy(), {})


@pytest.fixture(autouse=True)
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody decided in time is looked for more often than once a second."""
    monkeypatch.setattr("server.clock.TICK", 0.05)


@pytest.fixture
def tasks() -> Mapping[str, SmallDigits]:
    torch.set_num_threads(1)
    return {f"c{index}": SmallDigits(str(index)) for index in range(3)}


@pytest.fixture
async def federation(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> AsyncIterator[InProcessFederation]:
    async with opened(tmp_path, tasks) as found:
        yield found


@asynccontextmanager
async def opened(
    folder: Path, tasks: Mapping[str, SmallDigits], defaults: Defaults = TWICE
) -> AsyncIterator[InProcessFederation]:
    async with in_process(folder, SmallDigits(trace="no"), tasks, defaults) as found:
        yield found


async def eventually(what: str, holds: Callable[[], object], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"not in {seconds:g} s: {what}"
        await asyncio.sleep(0.02)


async def deletion_of(federation: InProcessFederation, request_id: str) -> Deletion:
    found = await federation.federation.database.read(
        lambda c: deletion_rows.get_deletion(c, request_id, DORA)
    )
    assert found.approval is not None
    return found


async def ended(federation: InProcessFederation, request_id: str, phase: JobPhase) -> Deletion:
    until = time.monotonic() + 60
    while (found := await deletion_of(federation, request_id)).job.phase is not phase:
        assert time.monotonic() < until, f"{found.job.phase} instead of {phase}"
        await asyncio.sleep(0.05)
    return found


async def round_in_flight(federation: InProcessFederation, *cohort: str) -> int:
    """The number of the round of this cohort, once it is in flight."""
    activity = federation.federation.activity
    await eventually(
        "a round runs", lambda: activity.progress and activity.progress.cohort == cohort
    )
    assert activity.progress is not None
    return activity.progress.round


async def is_released(federation: InProcessFederation) -> bool:
    _, version = await federation.federation.database.read(version_rows.current_and_released)
    return version is not None


async def completed_cohorts(federation: InProcessFederation) -> list[tuple[str, ...]]:
    """The cohorts of the rounds that made a version, oldest first."""
    rounds = await federation.federation.database.read(lambda c: round_rows.list_rounds(c, 0, 999))
    return [found.cohort for found in reversed(rounds) if found.result_version]


async def test_while_it_waits_training_goes_on_without_the_fenced_client(
    federation: InProcessFederation,
) -> None:
    coordinator = federation.coordinator
    await coordinator.start_training(LONG, OLGA)
    await eventually("a version is made", lambda: federation.federation.model.current.round > 1)
    found = await coordinator.accept(asked("c0", caller=DORA))
    assert found.job.phase is JobPhase.AWAITING
    assert federation.federation.fences.bar_of("c0") is not None
    assert not await is_released(federation)
    before = federation.federation.model.current.number

    await eventually(
        "training goes on", lambda: federation.federation.model.current.number > before + 2
    )

    assert (await completed_cohorts(federation))[-2:] == [("c1", "c2")] * 2
    assert (await deletion_of(federation, "forget-c0")).job.phase is JobPhase.AWAITING
    assert not await is_released(federation), "training releases nothing meanwhile"
    run = await coordinator.stop_training(OLGA)
    assert run.state is RunState.STOPPED


async def test_approved_it_goes_before_training_and_is_done(
    federation: InProcessFederation,
) -> None:
    coordinator = federation.coordinator
    await federation.train(3)
    await coordinator.start_training(LONG, OLGA)
    found = await coordinator.accept(asked("c0", caller=DORA))
    assert found.approval is not None
    name = found.approval.id
    with pytest.raises(FednotError) as refusal:
        await coordinator.approve(name, DORA)
    assert refusal.value.reason is Reason.SECOND_PERSON_NEEDED

    approval = await coordinator.approve(name, EMIL)

    assert approval.state is ApprovalState.APPROVED
    done = await ended(federation, "forget-c0", JobPhase.COMPLETED)
    assert [phase for phase, _ in done.job.history][:3] == [
        JobPhase.AWAITING,
        JobPhase.QUEUED,
        JobPhase.NEGATING,
    ]
    assert await coordinator.approve(name, EMIL) == approval, "a lost reply costs nothing"
    assert await coordinator.accept(asked("c0", caller=DORA)) == done


async def test_training_gives_way_to_what_is_approved_at_once(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    """Its round waits for a client that does not answer, for as long as ten minutes."""
    hold = tmp_path / "hold"
    held = {**tasks, "c2": SmallDigits("2", hold=str(hold))}
    async with opened(tmp_path, held) as federation:
        await federation.train(2)
        hold.touch()
        await federation.coordinator.start_training(LONG, OLGA)
        found = await federation.coordinator.accept(asked("c0", caller=DORA))
        in_flight = await round_in_flight(federation, "c1", "c2")
        assert found.approval is not None
        await federation.coordinator.approve(found.approval.id, EMIL)
        aborted = await federation.federation.database.read(
            lambda c: round_rows.get_round(c, in_flight)
        )
        assert aborted.outcome is RoundOutcome.ABORTED
        hold.unlink()
        await ended(federation, "forget-c0", JobPhase.COMPLETED)


async def test_refused_the_client_trains_again_and_the_model_is_released(
    federation: InProcessFederation,
) -> None:
    coordinator = federation.coordinator
    await federation.train(2)
    found = await coordinator.accept(asked("c0", caller=DORA))
    assert found.approval is not None
    await coordinator.refuse(found.approval.id, EMIL)
    assert (await deletion_of(federation, "forget-c0")).job.phase is JobPhase.CANCELLED
    assert federation.federation.fences.bar_of("c0") is None
    assert await is_released(federation)
    await federation.train(1)
    assert (await completed_cohorts(federation))[-1] == ("c0", "c1", "c2")


async def test_cancelled_by_who_asked_it_waits_for_nobody(federation: InProcessFederation) -> None:
    await federation.coordinator.accept(asked("c0", caller=DORA))
    found = await federation.coordinator.cancel("forget-c0", DORA)
    assert found.approval is not None
    assert found.approval.state is ApprovalState.WITHDRAWN
    assert federation.federation.fences.bar_of("c0") is None


async def test_expiry_is_noticed_in_the_middle_of_a_round(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    """The round waits for a client that does not answer; nothing else would look in time."""
    defaults = Defaults(require_approval=True, approval_expiry=5.0)
    hold = tmp_path / "hold"
    held = {**tasks, "c2": SmallDigits("2", hold=str(hold))}
    async with opened(tmp_path, held, defaults) as federation:
        await federation.train(1)
        hold.touch()
        await federation.coordinator.start_training(LONG, OLGA)
        await round_in_flight(federation, "c0", "c1", "c2")
        await federation.coordinator.accept(asked("c0", caller=DORA))
        in_flight = await round_in_flight(federation, "c1", "c2")

        await eventually(
            "the fence is lifted", lambda: federation.federation.fences.bar_of("c0") is None
        )

        found = await deletion_of(federation, "forget-c0")
        assert found.job.phase is JobPhase.CANCELLED
        assert found.approval is not None
        assert found.approval.state is ApprovalState.EXPIRED
        assert await is_released(federation)
        assert await round_in_flight(federation, "c1", "c2") == in_flight, "it was not disturbed"
        await federation.coordinator.stop_training(OLGA)


async def test_a_restart_keeps_what_waits_and_expires_what_is_over(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    soon = Defaults(require_approval=True, approval_expiry=0.5)
    async with opened(tmp_path, tasks) as federation:
        await federation.train(2)
        await federation.coordinator.accept(asked("c0", caller=DORA))
    async with opened(tmp_path, tasks, soon) as federation:
        kept = await deletion_of(federation, "forget-c0")
        assert kept.job.phase is JobPhase.AWAITING
        assert federation.federation.fences.bar_of("c0") is not None
        assert not await is_released(federation)
        await federation.coordinator.accept(asked("c1", caller=DORA))
    await asyncio.sleep(0.5)
    async with opened(tmp_path, tasks, Defaults()) as federation:
        assert (await ended(federation, "forget-c1", JobPhase.CANCELLED)).approval is not None
        await eventually(
            "the fence is lifted", lambda: federation.federation.fences.bar_of("c1") is None
        )
        assert kept.approval is not None
        await federation.coordinator.approve(kept.approval.id, EMIL)
        await ended(federation, "forget-c0", JobPhase.COMPLETED)
        assert await is_released(federation)


async def test_a_deadline_that_passes_before_the_approval_bars_nobody(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    defaults = Defaults(require_approval=True, job_deadline=0.2)
    async with opened(tmp_path, tasks, defaults) as federation:
        await federation.coordinator.accept(asked("c0", caller=DORA))
        found = await ended(federation, "forget-c0", JobPhase.CANCELLED)
        assert found.approval is not None
        assert found.approval.state is ApprovalState.EXPIRED
        await eventually(
            "the fence is lifted", lambda: federation.federation.fences.bar_of("c0") is None
        )


async def test_the_wait_for_an_approval_takes_nothing_from_the_time_of_the_job(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    """Approved an hour after its job was made, with a deadline of half an hour."""
    defaults = Defaults(require_approval=True, job_deadline=1800.0)
    async with opened(tmp_path, tasks, defaults) as federation:
        await federation.train(2)
        policy = RecoveryPolicy(max_rounds=2)
        found = await federation.coordinator.accept(asked("c0", caller=DORA, policy=policy))
        await federation.federation.database.write(
            BY_TEST, lambda c: c.execute(update(jobs).values(created_at=jobs.c.created_at - 3600.0))
        )
        assert found.approval is not None
        await federation.coordinator.approve(found.approval.id, EMIL)
        await ended(federation, "forget-c0", JobPhase.COMPLETED)


async def test_another_deletion_does_not_wait_for_the_approval_of_the_first(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    """Nothing is released at its end, since the first may still come."""
    async with opened(tmp_path, tasks) as federation:
        await federation.train(3)
        await federation.coordinator.accept(asked("c0", caller=DORA))
    async with opened(tmp_path, tasks, Defaults()) as federation:
        alone = RecoveryPolicy(max_rounds=2, min_clients=1)
        done = await federation.forget("c1", policy=alone)
        assert done.job.phase is JobPhase.COMPLETED
        assert (await completed_cohorts(federation))[-1] == ("c2",)
        assert not await is_released(federation)
        first = await deletion_of(federation, "forget-c0")
        assert first.job.phase is JobPhase.AWAITING
        await federation.coordinator.cancel("forget-c0", DORA)
        assert await is_released(federation)


async def test_everything_that_was_done_is_in_one_whole_chain(
    federation: InProcessFederation,
) -> None:
    """Repeats and what was refused leave no entry here; refusals are noted by the guard."""
    coordinator, database = federation.coordinator, federation.federation.database
    await federation.train(3)
    ask = asked("c0", caller=DORA, policy=RecoveryPolicy(max_rounds=2))
    found = await coordinator.accept(ask)
    await coordinator.accept(ask)
    assert found.approval is not None
    with pytest.raises(FednotError):
        await coordinator.approve(found.approval.id, DORA)
    await coordinator.approve(found.approval.id, EMIL)
    await ended(federation, "forget-c0", JobPhase.COMPLETED)
    waiting = await coordinator.readmit("c0", OLGA)
    assert waiting is not None
    await coordinator.refuse(waiting.id, EMIL)
    with pytest.raises(FednotError):
        await coordinator.stop_training(OLGA)
    await coordinator.accept(asked("c1", caller=EMIL))
    await coordinator.cancel("forget-c1", EMIL)

    entries = await database.read(lambda c: audit_rows.list_entries(c, 0, 999))

    assert check(entries).entries == len(entries)
    entries = [entry for entry in entries if entry.action not in STEPS]
    shown = {pseudonym for entry in entries for pseudonym in (entry.actor, entry.subject)}
    names = await database.read(lambda c: pseudonym_rows.names_of(c, shown)) | {"": ""}
    job = found.job.id
    assert [
        (names[entry.actor], entry.action, names[entry.subject], entry.job_id)
        for entry in entries[:-2]
    ] == [
        ("", "OperatorService.StartTraining", "", ""),
        ("officer/dora", "DeletionService.Unlearn", "client/c0", job),
        ("officer/emil", "ApprovalService.Approve", "client/c0", job),
        ("", "job.verified", "client/c0", job),
        ("", "job.completed", "client/c0", job),
        ("operator/olga", "OperatorService.ReadmitClient", "client/c0", ""),
        ("officer/emil", "ApprovalService.Refuse", "client/c0", ""),
    ]
    assert [entry.action for entry in entries[-2:]] == [
        "DeletionService.Unlearn",
        "DeletionService.CancelDeletion",
    ]
