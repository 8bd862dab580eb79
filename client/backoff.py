"""Waits between attempts: exponential, with jitter, for ever."""

from __future__ import annotations

import random
from typing import Final

FIRST_SECONDS: Final = 0.2
LONGEST_SECONDS: Final = 5.0


class Backoff:
    """Doubles from 0.2 s to 5 s; each wait is drawn from the upper half of its step."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._step = FIRST_SECONDS
        self._random = source or random.SystemRandom()

    def next(self) -> float:
        """How many seconds to wait before the next attempt."""
        wait = self._step * self._random.uniform(0.5, 1.0)
        self._step = min(2 * self._step, LONGEST_SECONDS)
        return wait

    def reset(self) -> None:
        """Begins again with short waits, after a success."""
        self._step = FIRST_SECONDS
