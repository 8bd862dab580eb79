"""A pulse: whoever waits is woken at the next beat, and nobody waits without a bound."""

from __future__ import annotations

import asyncio


class Pulse:
    """Counts beats and wakes every waiter at each."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._beats = 0

    def mark(self) -> int:
        """The count of beats now: take it before looking at what may change."""
        return self._beats

    def beat(self) -> None:
        """Wakes everyone who waits now."""
        self._beats += 1
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float, since: int) -> bool:
        """Waits until there was a beat since the mark, at most this long; False if none came."""
        if self._beats != since:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return True
