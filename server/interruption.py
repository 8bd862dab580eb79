"""Work that an accepted deletion may interrupt: rounds and waits, but never a commit."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class WorkInterruptedError(Exception):
    """The work was interrupted and left nothing behind."""


class Interruptible:
    """Runs one piece of work at a time; another task may interrupt it.

    Whoever decides by a state what to run calls `look_anew` before it looks at that state: an
    interruption after that ends the next piece of work, too, if none is in hand when it comes.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._interrupted = False
        self._interruptions = 0
        self._looked_at: int | None = None

    def look_anew(self) -> None:
        """Says that what is run from now on is decided by a state that is looked at now."""
        self._looked_at = self._interruptions

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs the work. Raises WorkInterruptedError if it was interrupted before its end.

        Raises RuntimeError if other work is in hand.
        """
        if self._task is not None:
            work.close()
            raise RuntimeError("one piece of work at a time")
        if self._looked_at not in (None, self._interruptions):
            work.close()
            raise WorkInterruptedError
        self._interrupted = False
        task = self._task = asyncio.create_task(work)
        try:
            result: T = await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._interrupted and not (caller and caller.cancelling()):
                raise WorkInterruptedError from None
            raise
        finally:
            self._task = None
        return result

    async def interrupt(self) -> None:
        """Interrupts the work in hand, if any, and returns once it has ended."""
        self._interruptions += 1
        task = self._task
        if task is None or task.done():
            return
        self._interrupted = True
        task.cancel()
        await asyncio.wait([task])
