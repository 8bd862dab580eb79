"""When the server itself stood still, so that nobody's silence then is held against a client."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from server.loop_lag import EVERY

LEAST: Final = 0.5
MOST_KEPT: Final = 256


@dataclass(frozen=True)
class Pause:
    """`length` seconds before `end`, on the monotonic clock."""

    end: float
    length: float


class Pauses:
    """Times in which the event loop did not run: suspended, swapped out, or held up by one call.

    Heartbeats that came meanwhile lie in their sockets, so whoever judges first after a pause would
    find every client silent. Nothing counts as a pause until `tick` was called once.
    """

    def __init__(self) -> None:
        self._ticked: float | None = None
        self._pauses: deque[Pause] = deque(maxlen=MOST_KEPT)

    def tick(self, lag: float) -> None:
        """Says that the loop runs, `lag` seconds later than asked for. To be called every EVERY."""
        self._ticked = time.monotonic()
        if lag > LEAST:
            self._pauses.append(Pause(self._ticked, lag))

    def listened(self, since: float) -> float:
        """For how many seconds since `since`, on the monotonic clock, the server ran."""
        now = time.monotonic()
        lost = sum(min(pause.length, pause.end - since) for pause in self._after(since, now))
        return now - since - lost

    def _after(self, since: float, now: float) -> list[Pause]:
        pauses = [pause for pause in self._pauses if pause.end > since]
        late = 0.0 if self._ticked is None else now - self._ticked - EVERY
        return [*pauses, Pause(now, late)] if late > LEAST else pauses
