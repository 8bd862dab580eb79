"""The upload desk's limits in time and number, with short times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from support.in_process import InProcessFederation, in_process
from support.small_digits import SmallDigits

from fednot.errors import FednotError, Reason
from fednot.v1 import federation_pb2
from server.cohorts.cohort import WorkKind, WorkPlan
from server.cohorts.remote import Assignment, RemoteCohort, Session
from server.federation import Defaults
from server.records import RoundPhase
from server.services.uploads import UploadDesk

SHORT = 0.1
Stream = AsyncIterator[federation_pb2.UploadUpdateRequest]


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[InProcessFederation]:
    tasks = {"c0": SmallDigits("0")}
    async with in_process(tmp_path, SmallDigits(trace="no"), tasks, Defaults()) as found:
        yield found


def desk_of(federation: InProcessFederation, cohort: RemoteCohort, slots: int) -> UploadDesk:
    return UploadDesk(
        federation.federation, cohort, slots=slots, slot_timeout=SHORT, message_timeout=SHORT
    )


def refused(federation: InProcessFederation) -> float:
    text, _ = federation.federation.metrics.render()
    name = 'fednot_updates_total{outcome="refused"}'
    (row,) = (line for line in text.decode().splitlines() if line.startswith(name))
    return float(row.removeprefix(name))


async def silent_after_the_header(
    federation: InProcessFederation, session: Session, assignment: Assignment, seconds: float
) -> Stream:
    model = federation.federation.model
    header = federation_pb2.UpdateHeader(
        session=federation_pb2.Session(client=session.client, id=session.id),
        work_id=assignment.id,
        base_version=model.current.number,
        generation=model.current.generation,
        manifest_digest=model.manifest.digest,
        num_examples=1,
        num_bytes=model.manifest.nbytes,
    )
    yield federation_pb2.UploadUpdateRequest(header=header)
    await asyncio.sleep(seconds)


async def given(
    federation: InProcessFederation, cohort: RemoteCohort, *names: str
) -> tuple[asyncio.Task[None], list[tuple[Session, Assignment]]]:
    """Sessions with work on the current version, and the task that waits for their answers."""
    model = federation.federation.model
    sessions = [Session(name, 10, 0, "cpu", last_seen=time.monotonic()) for name in names]
    for session in sessions:
        cohort.open(session)
    plan = WorkPlan(WorkKind.TRAIN, 1, RoundPhase.TRAINING, model.current, model.flat, names, 30.0)

    async def answers() -> None:
        async with aclosing(cohort.work(plan)) as coming:
            async for _ in coming:
                pass

    running = asyncio.create_task(answers())
    pairs = []
    for session in sessions:
        assignment = await cohort.next_assignment(session.client, 5)
        assert assignment is not None
        pairs.append((session, assignment))
    return running, pairs


async def test_a_sender_that_falls_silent_is_cut(federation: InProcessFederation) -> None:
    cohort = RemoteCohort(lapse=30)
    running, ((session, assignment),) = await given(federation, cohort, "a")
    before = refused(federation)
    with pytest.raises(FednotError) as error:
        await desk_of(federation, cohort, slots=1).take(
            silent_after_the_header(federation, session, assignment, 5)
        )
    assert error.value.reason is Reason.SLOW_SENDER
    assert refused(federation) == before + 1
    assert not assignment.answered, "the client may send again"
    running.cancel()


async def test_a_sender_without_a_slot_is_told_when_to_come_again(
    federation: InProcessFederation,
) -> None:
    """One slot, held by a silent sender for longer than the second one may wait for it."""
    cohort = RemoteCohort(lapse=30)
    running, (first, second) = await given(federation, cohort, "a", "b")
    desk = UploadDesk(
        federation.federation, cohort, slots=1, slot_timeout=SHORT, message_timeout=2.0
    )
    holding = asyncio.create_task(desk.take(silent_after_the_header(federation, *first, 2)))
    await asyncio.sleep(0.05)
    with pytest.raises(FednotError) as error:
        await desk.take(silent_after_the_header(federation, *second, 2))
    assert error.value.reason is Reason.SERVER_BUSY
    assert error.value.retry_after
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    running.cancel()


async def test_a_slot_comes_free_whatever_ended_the_upload(
    federation: InProcessFederation,
) -> None:
    cohort = RemoteCohort(lapse=30)
    running, ((session, assignment),) = await given(federation, cohort, "a")
    desk = desk_of(federation, cohort, slots=1)
    for _ in range(3):
        with pytest.raises(FednotError) as error:
            await desk.take(silent_after_the_header(federation, session, assignment, 5))
        assert error.value.reason is Reason.SLOW_SENDER
    running.cancel()
