"""How long control calls wait while many clients upload, and how late the event loop comes.

GetStatus is called every 20 ms; a task in the server looks every 5 ms how late it is run.
The prober stands above the clients in the scheduler's eyes where it may, so that what it waits for
is the server and not its own turn on a crowded machine.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final, Self

from benchmarks.contest import Work
from benchmarks.measuring import median
from benchmarks.round import Federation, Variant
from benchmarks.watched_server import longest_lag

EVERY_SECONDS: Final = 0.02
ROUNDS: Final = 6
IDLE_SECONDS: Final = 2.0
MANY: Final = Work(64, 10)
_PRIORITY: Final = -10


@dataclass
class Probe:
    """Calls GetStatus in a thread; `seconds` is how long each answer took."""

    federation: Federation
    seconds: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _ask(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PRIORITY)
        while not self._ended.wait(EVERY_SECONDS):
            begun = time.perf_counter()
            self.federation.status()
            self.seconds.append(time.perf_counter() - begun)


def stall(variant: Variant | None = None, work: Work = MANY) -> dict[str, Any]:
    """Milliseconds that answers took, idle and during rounds. Raises BenchmarkError."""
    with Federation(work, variant, watched=True) as federation:
        with Probe(federation) as idle:
            time.sleep(IDLE_SECONDS)
        begun = time.monotonic()
        with Probe(federation) as busy:
            seconds = federation.rounds(ROUNDS)
        lag = longest_lag(federation.lag_file.read_text(), begun)
    during = sorted(busy.seconds)
    return {
        "work": work.label,
        "name": federation.name,
        "calls": len(during),
        "idle_median_ms": _ms(median(idle.seconds)),
        "median_ms": _ms(median(during)),
        "p99_ms": _ms(during[int(0.99 * (len(during) - 1))]),
        "longest_ms": _ms(during[-1]),
        "loop_longest_ms": _ms(lag),
        "round_seconds": round(median(seconds[1:]) or 0.0, 4),
    }


def _ms(seconds: float | None) -> float:
    return round(1000 * (seconds or 0.0), 1)


if __name__ == "__main__":
    print(stall())
