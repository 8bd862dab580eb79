"""The way from a connection's thread to the event loop and back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from fednot.data_link import LinkClosedError
from fednot.errors import FednotError, Reason
from server.data_channel import event_loop
from server.data_channel.event_loop import EventLoop
from server.services import callers

T = TypeVar("T")


def nothing() -> None:
    """Looks at nothing."""


def gone() -> None:
    raise LinkClosedError("the client has gone")


def gone_once(begun: threading.Event) -> Callable[[], None]:
    """Looks at a client that goes when the work has begun."""

    def look() -> None:
        if begun.is_set():
            gone()

    return look


async def beside(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


async def test_a_coroutine_runs_on_the_loop_and_its_value_comes_back() -> None:
    loop = EventLoop()

    async def work() -> tuple[asyncio.AbstractEventLoop, str]:
        await asyncio.sleep(0.3)
        return asyncio.get_running_loop(), threading.current_thread().name

    where, thread = await beside(lambda: loop.run(work(), nothing))
    assert where is asyncio.get_running_loop()
    assert thread == threading.current_thread().name


async def test_what_it_raises_is_raised_in_the_thread() -> None:
    loop = EventLoop()

    async def work() -> None:
        raise FednotError(Reason.ROUND_OVER, "it has ended")

    with pytest.raises(FednotError, match="it has ended"):
        await beside(lambda: loop.run(work(), nothing))


async def test_a_timeout_of_the_coroutine_is_its_own() -> None:
    loop = EventLoop()

    async def work() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await beside(lambda: loop.run(work(), nothing))


async def test_a_look_that_raises_cancels_it() -> None:
    loop, cancelled, begun = EventLoop(), asyncio.Event(), threading.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    with pytest.raises(LinkClosedError, match="the client has gone"):
        await beside(lambda: loop.run(work(), gone_once(begun)))
    assert cancelled.is_set()


@pytest.mark.parametrize("later", [0.0, 0.3])
async def test_a_value_that_comes_too_late_is_given_back_on_the_loop(
    monkeypatch: pytest.MonkeyPatch, later: float
) -> None:
    """It ignores its cancellation, as one does that has just come to its end.

    The thread does not wait for it for long, since the loop may stand still.
    """
    monkeypatch.setattr(event_loop, "ABANDON_SECONDS", 0.1)
    loop, lost, begun = EventLoop(), asyncio.Event(), threading.Event()
    found: list[tuple[str, asyncio.AbstractEventLoop]] = []

    async def work() -> str:
        try:
            begun.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(later)
            return "too late"
        return ""

    def give_back(value: str) -> None:
        found.append((value, asyncio.get_running_loop()))
        lost.set()

    with pytest.raises(LinkClosedError, match="the client has gone"):
        await beside(lambda: loop.run(work(), gone_once(begun), lost=give_back))
    async with asyncio.timeout(5):
        await lost.wait()
    assert found == [("too late", asyncio.get_running_loop())]


async def test_a_wait_is_bounded_if_it_is_to_be() -> None:
    loop = EventLoop()
    with pytest.raises(TimeoutError, match="did not answer in time"):
        await beside(lambda: loop.run(asyncio.sleep(60), nothing, seconds=0.1))


async def test_one_that_was_cancelled_on_the_loop_ends_the_wait() -> None:
    loop = EventLoop()

    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(LinkClosedError, match="cancelled"):
        await beside(lambda: loop.run(work(), nothing))


async def test_who_calls_is_known_to_the_coroutine_alone() -> None:
    loop = EventLoop()

    async def work() -> bytes | None:
        callers.begin(callers.NOBODY, b"shown")
        return callers.certificate()

    assert await beside(lambda: loop.run(work(), nothing)) == b"shown"
    assert callers.certificate() is None


def test_a_loop_that_has_ended_closes_the_connection() -> None:
    async def made() -> EventLoop:
        return EventLoop()

    async def work() -> None:
        """Never begins."""

    loop = asyncio.run(made())
    with pytest.raises(LinkClosedError, match="has stopped"):
        loop.run(work(), nothing)
