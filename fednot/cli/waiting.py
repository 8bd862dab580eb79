"""Bounded waiting: how long still, and what to do when the connection is lost meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fednot.cli import interrupts
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError, timed_out

FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 5.0
MOST_BROKEN: Final = 8


class Patience:
    """How much longer to wait. Every pause is bounded by it."""

    def __init__(self, seconds: float, what: str) -> None:
        self._seconds = seconds
        self._what = what
        self._end = time.monotonic() + seconds
        self.waiting_for = ""

    def remaining(self) -> float:
        """The seconds that are left. Raises CliError if none are.

        Raises KeyboardInterrupt for an interrupt that was swallowed before.
        """
        interrupts.check()
        left = self._end - time.monotonic()
        if left <= 0:
            why = f": {self.waiting_for}" if self.waiting_for else ""
            raise timed_out(
                f"{self._what} has not ended after {self._seconds:g} s{why}",
                "It goes on; follow it again, or give a longer --wait-timeout.",
            )
        return left

    def pause(self, seconds: float) -> None:
        """Sleeps, but not beyond the end. Raises CliError if nothing is left."""
        time.sleep(min(seconds, self.remaining()))


@dataclass
class Losses:
    """Tells once that the connection was lost, and once that it is back.

    A server that is not reached may be restarting; one that breaks call after call is given up.
    """

    tell: Callable[[str], None]
    count: int = 0
    broken: int = 0

    def lost(self, error: CliError) -> float:
        """Notes a loss and returns how long to pause. Raises the error if it is no loss."""
        self.broken += error.code is not ExitCode.UNREACHABLE
        if not error.lost or self.broken > MOST_BROKEN:
            raise error
        if self.count == 0:
            self.tell(f"{error.message}; trying again")
        self.count += 1
        return min(LONGEST_PAUSE, FIRST_PAUSE * float(2 ** min(self.count, 8)))

    def answered(self) -> None:
        """Notes that the server answers."""
        if self.count:
            self.tell("the server answers again")
        self.count = self.broken = 0
