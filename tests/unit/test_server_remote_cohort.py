"""Sessions and assignments: every answer is settled, and no wait outlives its reason."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
import torch

from fednot.codecs.none import Plain
from fednot.errors import FednotError, Reason
from server import loop_lag
from server.blocks import Block
from server.cohorts.cohort import NoAnswer, Update, WorkKind, WorkPlan
from server.cohorts.remote import Assignment, RemoteCohort, Session
from server.interruption import Interruptible, WorkInterruptedError
from server.records import RoundPhase, Version, VersionOrigin

FLAT = torch.zeros(8, dtype=torch.uint8)


def plan(*clients: str, deadline: float = 30.0) -> WorkPlan:
    version = Version(1, "", 0, 0, 1, VersionOrigin.INITIAL, 0, 0.0, 8)
    return WorkPlan(WorkKind.TRAIN, 1, RoundPhase.TRAINING, version, FLAT, clients, deadline)


def cohort_of(*clients: str, lapse: float = 30.0) -> RemoteCohort:
    cohort = RemoteCohort(lapse=lapse)
    for name in clients:
        cohort.open(Session(name, 10, 0, "cpu", last_seen=time.monotonic()))
    return cohort


async def answers_of(cohort: RemoteCohort, work: WorkPlan) -> list[object]:
    async with aclosing(cohort.work(work)) as answers:
        return [answer async for answer in answers]


async def given(cohort: RemoteCohort, client: str) -> Assignment:
    assignment = await cohort.next_assignment(client, 5)
    if assignment is None:
        raise AssertionError(f"{client} was given no work")
    return assignment


def update(client: str) -> Update:
    return Update(client, 1, Block.of(FLAT), Plain(), {}, lambda _: None)


@pytest.mark.parametrize("turns", range(5))
async def test_an_answer_just_before_an_interruption_does_not_swallow_it(turns: int) -> None:
    """With asyncio.wait_for of Python 3.11 the interruption waited for the round's deadline."""
    cohort, work = cohort_of("a", "b"), Interruptible()
    running = asyncio.create_task(work.run(answers_of(cohort, plan("a", "b"))))
    (await given(cohort, "a")).answer(NoAnswer("a", "it failed"))
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await work.interrupt()
        with pytest.raises(WorkInterruptedError):
            await running


async def test_a_client_that_waits_for_work_keeps_no_model_of_the_round_before() -> None:
    """Each would be one more model in the server's memory."""
    cohort = cohort_of("a", "b")
    work = replace(plan("a", "b"), flat=torch.zeros(8, dtype=torch.uint8))
    gone = weakref.ref(work.flat)
    running = asyncio.create_task(answers_of(cohort, work))
    (await given(cohort, "a")).answer(NoAnswer("a", "it failed"))
    polling = asyncio.create_task(cohort.next_assignment("b", 5))
    assert await polling is not None
    waiting = asyncio.create_task(cohort.next_assignment("a", 5))
    await asyncio.sleep(0)
    (await given(cohort, "b")).answer(NoAnswer("b", "it failed"))
    later = asyncio.create_task(cohort.next_assignment("b", 5))
    await running
    del work, polling, running
    await asyncio.sleep(0.05)
    assert gone() is None
    assert not waiting.done()
    assert not later.done()


async def test_a_client_that_is_lost_is_not_waited_for() -> None:
    cohort = cohort_of("a", lapse=0.2)
    (answer,) = await answers_of(cohort, plan("a"))
    assert isinstance(answer, NoAnswer)
    assert answer.reason.startswith("lost; last seen")


async def test_a_session_is_closed_whose_certificate_no_longer_holds() -> None:
    cohort = cohort_of("a", "b", "c")
    for name, session in cohort.sessions().items():
        session.certificate = None if name == "c" else name.encode()
    round_ = asyncio.create_task(answers_of(cohort, plan("a", "b")))
    for name in ("a", "b"):
        await given(cohort, name)
    assert cohort.close_unless(lambda pem: True) == []
    assert cohort.close_unless(lambda pem: pem == b"b") == ["a"]
    assert cohort.connected() == {"b", "c"}
    (await given(cohort, "b")).answer(NoAnswer("b", "it failed"))
    async with asyncio.timeout(2):
        first = (await round_)[0]
    assert isinstance(first, NoAnswer)
    assert (first.client, first.reason) == ("a", "its certificate no longer holds")


async def test_silence_until_the_deadline_says_when_the_client_was_seen() -> None:
    cohort = cohort_of("a", lapse=1000.0)
    cohort.sessions()["a"].last_seen -= 99.6
    (answer,) = await answers_of(cohort, plan("a", deadline=0.1))
    assert answer == NoAnswer("a", "no answer in 0.1 s; last seen 100 s ago")


async def test_a_client_that_joins_again_gets_its_work_again() -> None:
    cohort = cohort_of("a")
    running = asyncio.create_task(answers_of(cohort, plan("a")))
    first = await given(cohort, "a")
    cohort.open(Session("a", 10, 0, "cpu", last_seen=time.monotonic()))
    assert await given(cohort, "a") is first
    first.answer(NoAnswer("a", "done"))
    await running


@asynccontextmanager
async def looked_at(
    cohort: RemoteCohort,
) -> AsyncIterator[tuple[Assignment, asyncio.Task[None], Update]]:
    """The work of "a", the sending of its update, and that update as its round has it in hand."""
    answers = cohort.work(plan("a", "b"))
    coming = asyncio.create_task(anext(answers))
    assignment = await given(cohort, "a")
    sending = asyncio.create_task(assignment.submit(update("a")))
    answer = await coming
    assert isinstance(answer, Update)
    yield assignment, sending, answer
    await answers.aclose()


async def test_a_refused_update_that_is_sent_again_is_refused_again() -> None:
    """Its first reply may have been lost; DUPLICATE_UPDATE would tell the client that it counts."""
    cohort = cohort_of("a", "b")
    async with looked_at(cohort) as (assignment, sending, answer):
        answer.settle(FednotError(Reason.NOT_FINITE, "it holds NaN"))
        with pytest.raises(FednotError, match="NaN"):
            await sending
        with pytest.raises(FednotError, match="NaN"):
            cohort.assignment("a", assignment.id).check_open()


async def test_an_accepted_update_that_is_sent_again_is_a_duplicate() -> None:
    cohort = cohort_of("a", "b")
    async with looked_at(cohort) as (assignment, sending, answer):
        answer.settle(None)
        await sending
        with pytest.raises(FednotError) as refused:
            assignment.check_open()
        assert refused.value.reason is Reason.DUPLICATE_UPDATE


async def test_a_verdict_is_kept_though_the_sender_hung_up_before_it() -> None:
    """Its connection broke while the round looked at its update, and it asks again."""
    cohort = cohort_of("a", "b")
    async with looked_at(cohort) as (assignment, sending, answer):
        sending.cancel()
        await asyncio.wait([sending])
        assert assignment.stands
        asking = asyncio.create_task(assignment.judged())
        await asyncio.sleep(0.05)
        assert not asking.done()
        answer.settle(FednotError(Reason.NOT_FINITE, "it holds NaN"))
        await asking
        with pytest.raises(FednotError, match="NaN"):
            assignment.check_open()
        assert not assignment.stands


async def test_work_stands_while_its_update_is_looked_at_and_once_it_counts() -> None:
    """A heartbeat that says otherwise has the client drop what the round has counted."""
    cohort = cohort_of("a", "b")
    answers = cohort.work(plan("a", "b"))
    coming = asyncio.create_task(anext(answers))
    assignment = await given(cohort, "a")
    assert assignment.stands
    sending = asyncio.create_task(assignment.submit(update("a")))
    answer = await coming
    assert assignment.stands
    answer.settle(None)
    await sending
    assert assignment.stands
    await answers.aclose()
    assert not assignment.stands


async def test_an_update_of_a_client_that_was_given_up_on_is_no_duplicate() -> None:
    """DUPLICATE_UPDATE would tell the client that it counts, and the round lists it as missing."""
    cohort = cohort_of("a", "b")
    answers = cohort.work(plan("a", "b"))
    coming = asyncio.create_task(anext(answers))
    assignment = await given(cohort, "a")
    assignment.answer(NoAnswer("a", "lost; last seen 7 s ago"))
    await coming
    assert not assignment.stands
    with pytest.raises(FednotError, match="lost; last seen 7 s ago") as refused:
        await assignment.submit(update("a"))
    assert refused.value.reason is Reason.ROUND_OVER
    await answers.aclose()


async def test_the_end_of_the_work_settles_updates_and_cuts_downloads() -> None:
    cohort = cohort_of("a")
    answers = cohort.work(plan("a"))
    coming = asyncio.create_task(anext(answers))
    assignment = await given(cohort, "a")

    async def stalled_download() -> None:
        task = asyncio.current_task()
        assert task is not None
        with assignment.until_its_end(task.cancel):
            await asyncio.sleep(30)

    download = asyncio.create_task(stalled_download())
    sending = asyncio.create_task(assignment.submit(update("a")))
    await coming
    await answers.aclose()
    with pytest.raises(FednotError) as refused:
        await sending
    assert refused.value.reason is Reason.ROUND_OVER
    async with asyncio.timeout(2):
        with pytest.raises(asyncio.CancelledError):
            await download
    with pytest.raises(FednotError) as gone:
        cohort.assignment("a", assignment.id)
    assert gone.value.reason is Reason.UNKNOWN_WORK


async def test_a_server_that_stops_sends_waiting_clients_away() -> None:
    cohort = cohort_of("a")
    waiting = asyncio.create_task(cohort.next_assignment("a", 30))
    await asyncio.sleep(0)
    cohort.stop()
    async with asyncio.timeout(2):
        with pytest.raises(FednotError) as refused:
            await waiting
    assert refused.value.reason is Reason.SHUTTING_DOWN
    assert refused.value.retry_after


async def test_a_client_that_leaves_ends_the_wait_for_it() -> None:
    cohort = cohort_of("a")
    running = asyncio.create_task(answers_of(cohort, plan("a")))
    await given(cohort, "a")
    cohort.close(cohort.sessions()["a"])
    assert await running == [NoAnswer("a", "it left")]
    assert cohort.connected() == frozenset()


async def test_another_session_or_client_cannot_touch_the_work() -> None:
    cohort = cohort_of("a", "b")
    running = asyncio.create_task(answers_of(cohort, plan("a")))
    assignment = await given(cohort, "a")
    for call in (
        lambda: cohort.assignment("b", assignment.id),
        lambda: cohort.session("a", "not its session"),
    ):
        with pytest.raises(FednotError):
            call()
    assignment.answer(NoAnswer("a", "done"))
    await running


def session_of(client: str, instance: str) -> Session:
    return Session(client, 10, 0, "cpu", last_seen=time.monotonic(), instance=instance)


@pytest.mark.parametrize("other", ["another", ""])
async def test_a_second_process_is_refused_while_the_first_lives(other: str) -> None:
    cohort = RemoteCohort(lapse=0.3)
    cohort.open(session_of("a", "one"))
    for attempt in (cohort.check_free, cohort.open):
        with pytest.raises(FednotError) as refused:
            attempt(session_of("a", other))
        assert refused.value.reason is Reason.CLIENT_CONNECTED
        assert 0 < (refused.value.retry_after or 0) <= 0.3
        assert refused.value.metadata == {}
    await asyncio.sleep(0.3)
    cohort.open(session_of("a", other))
    with pytest.raises(FednotError):
        cohort.open(session_of("a", "one"))


@pytest.mark.parametrize("instance", ["one", ""])
def test_the_same_process_started_again_replaces_its_session(instance: str) -> None:
    cohort = RemoteCohort(lapse=30.0)
    cohort.open(session_of("a", instance))
    again = session_of("a", instance)
    cohort.open(again)
    assert cohort.session("a", again.id) is again


async def test_orders_end_the_polls_that_wait() -> None:
    cohort = cohort_of("a")
    waiting = asyncio.create_task(cohort.next_assignment("a", 30))
    await asyncio.sleep(0)
    cohort.call_back()
    async with asyncio.timeout(2):
        assert await waiting is None


async def test_work_that_ends_as_the_server_stops_may_go_on() -> None:
    """Told that its round is over, a client would throw its training away."""
    cohort = cohort_of("a")
    answers = cohort.work(plan("a"))
    coming = asyncio.create_task(anext(answers))
    assignment = await given(cohort, "a")
    sending = asyncio.create_task(assignment.submit(update("a")))
    await coming
    cohort.stop()
    await answers.aclose()
    with pytest.raises(FednotError) as refused:
        await sending
    for call in (assignment.check_open, lambda: cohort.assignment("a", assignment.id)):
        with pytest.raises(FednotError) as later:
            call()
        assert refused.value.reason is later.value.reason is Reason.SHUTTING_DOWN


def test_a_rounds_work_has_the_same_id_in_every_process_and_evaluation_never() -> None:
    work = plan("a", "b")
    assert work.work_id_of("a") == plan("a", "b").work_id_of("a")
    others = (
        work.work_id_of("b"),
        replace(work, round=2).work_id_of("a"),
        replace(work, kind=WorkKind.EVALUATE).work_id_of("a"),
        replace(work, version=replace(work.version, sha256="another")).work_id_of("a"),
        replace(work, round=0).work_id_of("a"),
        replace(work, round=0).work_id_of("a"),
    )
    assert len({work.work_id_of("a"), *others}) == 1 + len(others)


async def test_the_clients_of_a_resumed_round_have_time_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """a comes back after a second, b never; after the grace of 2 s b is given up on.

    What this process stands still meanwhile, on a busy machine, counts for nobody.
    """
    monkeypatch.setattr("server.cohorts.remote.REJOIN_SECONDS", 2.0)
    cohort = cohort_of(lapse=0.2)
    looking = asyncio.create_task(loop_lag.watch(cohort.pauses.tick))
    began = time.monotonic()
    running = asyncio.create_task(answers_of(cohort, replace(plan("a", "b"), resumed=True)))
    await asyncio.sleep(1.0)
    cohort.open(session_of("a", ""))
    (await given(cohort, "a")).answer(NoAnswer("a", "done"))
    async with asyncio.timeout(5):
        answers = await running
    looking.cancel()
    assert answers == [NoAnswer("a", "done"), NoAnswer("b", "lost; it has no session")]
    assert time.monotonic() - began >= 2.0


async def test_a_client_that_came_back_and_fell_silent_is_given_up_on() -> None:
    cohort = cohort_of("a", lapse=0.2)
    async with asyncio.timeout(5):
        (answer,) = await answers_of(cohort, replace(plan("a"), resumed=True))
    assert isinstance(answer, NoAnswer)
    assert answer.reason.startswith("lost; last seen")


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_server_that_stood_still_gives_nobody_up_for_it(
    monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    """Past the deadline of a round, or the grace of one that is resumed; a's answer comes then."""
    monkeypatch.setattr("server.cohorts.remote.REJOIN_SECONDS", 1.0)
    cohort = cohort_of(*(() if resumed else ("a",)), lapse=0.6)
    cohort.pauses.tick(0.0)
    work = replace(plan("a", deadline=30.0 if resumed else 1.0), resumed=resumed)
    running = asyncio.create_task(answers_of(cohort, work))
    await asyncio.sleep(0)
    time.sleep(1.5)  # noqa: ASYNC251  # nothing runs, as in a process that is suspended
    await asyncio.sleep(0.1)
    cohort.open(session_of("a", ""))
    (await given(cohort, "a")).answer(NoAnswer("a", "done"))
    async with asyncio.timeout(5):
        assert await running == [NoAnswer("a", "done")]
