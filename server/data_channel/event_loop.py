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
        cancelled then, and if it had just come to its end, `lost` is given its value on the loop.
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
            self._soon(running.abandon, work)
            wait({running.outcome}, ABANDON_SECONDS)
            if lost is not None and running.came_to_its_end():
                self._soon(lambda: lost(running.outcome.result()), work)
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

    def abandon(self) -> None:
        """Cancels it."""
        if self._task is not None:
            self._task.cancel()

    def came_to_its_end(self) -> bool:
        """Whether it gave a value."""
        return self.outcome.done() and self.outcome.exception() is None

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.outcome.set_exception(LinkClosedError("the call was cancelled"))
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())
