"""The way from a connection's thread to the event loop, where the state of the server lives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

from fednot.data_link import LOOK_SECONDS, LinkClosedError

ABANDON_SECONDS = 5.0

T = TypeVar("T")


class EventLoop:
    """The loop that it is made in; its methods are for other threads."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def run(
        self,
        work: Coroutine[Any, Any, T],
        look: Callable[[], None],
        *,
        lost: Callable[[T], object] | None = None,
        seconds: float = float("inf"),
    ) -> T:
        """Runs a coroutine on the loop; gives its value or raises its error.

        Meanwhile `look` is called again and again and ends the wait by raising; the coroutine is
        cancelled then, and if it comes to its end all the same, `lost` is given its value on the
        loop, however late.
        Raises TimeoutError after so many seconds, LinkClosedError if the loop has ended.
        """
        running = _Running(work)
        self._soon(running.begin, work)
        until = time.monotonic() + seconds
        try:
            while not wait({running.outcome}, LOOK_SECONDS).done:
                look()
                _check(until)
        except BaseException:
            self._soon(lambda: running.abandon(lost), work)
            wait({running.outcome}, ABANDON_SECONDS)
            raise
        return running.outcome.result()

    def _soon(self, call: Callable[[], object], work: Coroutine[Any, Any, T]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError as error:
            work.close()
            raise LinkClosedError("the server has stopped") from error


def _check(until: float) -> None:
    if time.monotonic() > until:
        raise TimeoutError("the event loop did not answer in time")


def _give(task: asyncio.Task[T], lost: Callable[[T], object]) -> None:
    if not task.cancelled() and task.exception() is None:
        lost(task.result())


class _Running(Generic[T]):
    """A coroutine on its way through the loop; only `outcome` is for other threads."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self.outcome: Future[T] = Future()
        self._work = work
        self._task: asyncio.Task[T] | None = None

    def begin(self) -> None:
        """Starts it."""
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._task.add_done_callback(self._settle)

    def abandon(self, lost: Callable[[T], object] | None) -> None:
        """Cancels it; `lost` is given the value that it has or still comes to."""
        if self._task is None:
            return
        self._task.cancel()
        if lost is not None:
            self._task.add_done_callback(lambda task: _give(task, lost))

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.outcome.set_exception(LinkClosedError("the call was cancelled"))
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())
