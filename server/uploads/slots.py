"""How many uploads may be in memory at once; the others wait in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fednot.errors import FednotError, Reason

RETRY_AFTER: Final = 2.0


class Slots:
    """`count` slots; whoever finds none waits, at most `wait` seconds.

    `changed` is called when more or fewer wait.
    """

    def __init__(self, count: int, wait: float, changed: Callable[[], None]) -> None:
        self.waiting = 0
        self._count = count
        self._wait = wait
        self._changed = changed
        self._free = asyncio.Semaphore(count)

    async def acquire(self) -> None:
        """Takes a slot. Raises FednotError (SERVER_BUSY) that says how many wait before."""
        before = self.waiting
        self._count_waiting(1)
        try:
            async with asyncio.timeout(self._wait):
                await self._free.acquire()
        except TimeoutError:
            raise FednotError(
                Reason.SERVER_BUSY,
                f"no upload slot came free in {self._wait:g} s: {self._count} uploads are in "
                f"flight, and {before} came before this one",
                retry_after=RETRY_AFTER,
            ) from None
        finally:
            self._count_waiting(-1)

    def _count_waiting(self, more: int) -> None:
        self.waiting += more
        self._changed()

    def release(self) -> None:
        """Gives a slot back, to whoever waits longest."""
        self._free.release()
