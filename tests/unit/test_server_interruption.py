"""Pulses without lost beats, and work that can be interrupted at any moment."""

from __future__ import annotations

import asyncio
import time

import pytest

from server.interruption import Interruptible, WorkInterruptedError
from server.pulse import Pulse


async def test_a_waiter_is_woken_by_the_next_beat() -> None:
    pulse = Pulse()
    waiter = asyncio.create_task(pulse.wait(5, pulse.mark()))
    await asyncio.sleep(0)
    pulse.beat()
    assert await asyncio.wait_for(waiter, 1)


async def test_a_beat_wakes_every_waiter() -> None:
    pulse = Pulse()
    waiters = [asyncio.create_task(pulse.wait(5, pulse.mark())) for _ in range(5)]
    await asyncio.sleep(0)
    pulse.beat()
    assert await asyncio.wait_for(asyncio.gather(*waiters), 1) == [True] * 5


async def test_a_beat_between_mark_and_wait_is_not_lost() -> None:
    pulse = Pulse()
    mark = pulse.mark()
    pulse.beat()
    begun = time.monotonic()
    assert await pulse.wait(5, mark)
    assert time.monotonic() - begun < 1


async def test_a_beat_before_the_mark_does_not_wake() -> None:
    pulse = Pulse()
    pulse.beat()
    assert not await pulse.wait(0.01, pulse.mark())


async def test_a_wait_is_bounded() -> None:
    pulse = Pulse()
    begun = time.monotonic()
    assert not await pulse.wait(0.05, pulse.mark())
    assert 0.04 < time.monotonic() - begun < 2
    assert not await pulse.wait(0, pulse.mark())


async def test_each_beat_wakes_once() -> None:
    pulse = Pulse()
    first = asyncio.create_task(pulse.wait(5, pulse.mark()))
    await asyncio.sleep(0)
    pulse.beat()
    assert await first
    assert not await pulse.wait(0.01, pulse.mark())


async def test_a_consumer_that_marks_before_it_looks_sees_every_change() -> None:
    """The producer changes and beats 200 times at odd moments; the last change must be seen."""
    pulse, changes, seen = Pulse(), 0, 0

    async def consume() -> None:
        nonlocal seen
        while seen < 200:
            mark = pulse.mark()
            seen = changes
            await asyncio.sleep(0)
            if seen < 200 and not await pulse.wait(2, mark):
                raise AssertionError(f"asleep at {seen} of {changes}")

    consumer = asyncio.create_task(consume())
    for number in range(200):
        for _ in range(number % 3):
            await asyncio.sleep(0)
        changes += 1
        pulse.beat()
    await asyncio.wait_for(consumer, 5)
    assert seen == 200


class Work:
    """Work that says how far it came."""

    def __init__(self, cleanup: float = 0.0) -> None:
        self.begun = asyncio.Event()
        self.cleaned = False
        self._cleanup = cleanup

    async def sleep(self) -> str:
        self.begun.set()
        try:
            await asyncio.sleep(30)
        finally:
            if self._cleanup:
                await asyncio.sleep(self._cleanup)
            self.cleaned = True
        return "slept"


async def quick() -> str:
    await asyncio.sleep(0)
    return "done"


async def test_work_that_nobody_interrupts_returns_its_result() -> None:
    assert await Interruptible().run(quick()) == "done"


async def test_an_exception_of_the_work_is_passed_on() -> None:
    async def broken() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await Interruptible().run(broken())


async def test_an_interruption_before_any_work_does_nothing_to_later_work() -> None:
    interruptible = Interruptible()
    await interruptible.interrupt()
    assert await interruptible.run(quick()) == "done"


async def test_an_interruption_before_the_works_first_step_keeps_it_from_beginning() -> None:
    interruptible, work = Interruptible(), Work()
    running = asyncio.create_task(interruptible.run(work.sleep()))
    await asyncio.sleep(0)
    await interruptible.interrupt()
    with pytest.raises(WorkInterruptedError):
        await running
    assert not work.begun.is_set()


async def test_an_interruption_returns_only_once_the_work_has_cleaned_up() -> None:
    interruptible, work = Interruptible(), Work(cleanup=0.05)
    running = asyncio.create_task(interruptible.run(work.sleep()))
    await work.begun.wait()
    await interruptible.interrupt()
    assert work.cleaned
    with pytest.raises(WorkInterruptedError):
        await running


async def test_two_interruptions_at_once_both_return() -> None:
    interruptible, work = Interruptible(), Work(cleanup=0.02)
    running = asyncio.create_task(interruptible.run(work.sleep()))
    await work.begun.wait()
    await asyncio.gather(interruptible.interrupt(), interruptible.interrupt())
    with pytest.raises(WorkInterruptedError):
        await running


async def test_an_interruption_after_the_end_does_nothing() -> None:
    interruptible = Interruptible()
    assert await interruptible.run(quick()) == "done"
    await interruptible.interrupt()
    assert await interruptible.run(quick()) == "done"


async def test_an_interruption_between_two_pieces_of_work_ends_the_next_one() -> None:
    """What the next one was decided by is out of date; decided anew, it runs."""
    interruptible, work = Interruptible(), Work()
    interruptible.look_anew()
    assert await interruptible.run(quick()) == "done"
    await interruptible.interrupt()
    for _ in range(2):
        with pytest.raises(WorkInterruptedError):
            await interruptible.run(work.sleep())
    assert not work.begun.is_set()
    interruptible.look_anew()
    assert await interruptible.run(quick()) == "done"


async def test_an_interruption_between_the_works_end_and_its_result_does_nothing() -> None:
    """The work's last step schedules the interruption, which so runs before `run` goes on."""
    interruptible = Interruptible()
    interruptions: list[asyncio.Task[None]] = []

    async def last_step() -> str:
        interruptions.append(asyncio.create_task(interruptible.interrupt()))
        return "done"

    assert await interruptible.run(last_step()) == "done"
    await interruptions[0]
    assert await interruptible.run(quick()) == "done"


async def test_after_an_interruption_new_work_runs_to_its_end() -> None:
    interruptible, work = Interruptible(), Work()
    running = asyncio.create_task(interruptible.run(work.sleep()))
    await work.begun.wait()
    await interruptible.interrupt()
    with pytest.raises(WorkInterruptedError):
        await running
    assert await interruptible.run(quick()) == "done"


async def test_cancelling_the_caller_cancels_the_work_and_is_no_interruption() -> None:
    interruptible, work = Interruptible(), Work()
    running = asyncio.create_task(interruptible.run(work.sleep()))
    await work.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert work.cleaned


async def test_cancelling_the_caller_while_its_work_is_being_interrupted_is_not_swallowed() -> None:
    """A server that stops during an interruption: its coordinator must end, not start anew."""
    interruptible, work = Interruptible(), Work(cleanup=0.05)
    running = asyncio.create_task(interruptible.run(work.sleep()))
    await work.begun.wait()
    interruption = asyncio.create_task(interruptible.interrupt())
    await asyncio.sleep(0.01)
    running.cancel()
    await interruption
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_second_piece_of_work_is_refused() -> None:
    work = Interruptible()
    first = asyncio.create_task(work.run(asyncio.sleep(0.05, "first")))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="one piece"):
        await work.run(asyncio.sleep(0))
    assert await first == "first"
