"""Runs blocking work in one thread beside the event loop, never two pieces at once.

A thread cannot be ended from outside: work that ignores its cancellation keeps the next piece
waiting, and the process leaves it behind when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import traceback
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from fednot.training import WorkCancelledError

MAX_SENTENCE: Final = 300

_log = logging.getLogger("client")

T = TypeVar("T")


class WorkFailedError(Exception):
    """The work raised; the message is one sentence with the exception's type and message."""


class _Outcome(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self.value: T | None = None
        self.error: BaseException | None = None
        try:
            self.value = work()
        except BaseException as error:
            self.error = error


class Worker:
    """One thread at a time."""

    def __init__(self) -> None:
        self._running: asyncio.Future[object] | None = None

    @property
    def busy(self) -> bool:
        """Whether a thread still works, cancelled or not."""
        return self._running is not None and not self._running.done()

    async def run(self, work: Callable[[], T]) -> T:
        """Runs the work and gives its value, once the piece before it has stopped.

        Raises WorkCancelledError as the work does, and WorkFailedError for all else it raises.
        """
        if self.busy:
            _log.info("waiting for the work before to stop")
        while self.busy:
            await self.stopped()
        future = self._start(work)
        outcome = await asyncio.shield(future)
        if self._running is future:
            self._running = None
        return _value(outcome)

    async def stopped(self, within: float | None = None) -> bool:
        """Waits until no thread works, at most `within` seconds; False if one still does."""
        if self._running is not None and self.busy:
            await asyncio.wait({self._running}, timeout=within)
        return not self.busy

    def _start(self, work: Callable[[], T]) -> asyncio.Future[_Outcome[T]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Outcome[T]] = loop.create_future()
        self._running = future  # type: ignore[assignment]

        def body() -> None:
            outcome = _Outcome(work)
            with contextlib.suppress(RuntimeError):  # the loop has ended, nobody waits
                loop.call_soon_threadsafe(future.set_result, outcome)

        bound = contextvars.copy_context()  # log lines and spans of the work go back to its call
        threading.Thread(target=bound.run, args=(body,), name="fednot-work", daemon=True).start()
        return future


def sentence(error: BaseException) -> str:
    """An exception's type and message in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:MAX_SENTENCE] if text else type(error).__name__


def _value(outcome: _Outcome[T]) -> T:
    error = outcome.error
    if isinstance(error, WorkCancelledError):
        raise error
    if error is not None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        _log.error("the work failed at %s:%s: %s", place.filename, place.lineno, sentence(error))
        _log.debug("the work's traceback", exc_info=error)
        raise WorkFailedError(sentence(error)) from error
    return outcome.value  # type: ignore[return-value]
