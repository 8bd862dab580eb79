"""The pause before failed work is tried again: longer each time, and shorter when clients come."""

from __future__ import annotations

import time
from typing import Final

from server.federation import Federation
from server.records import WaitKind

MOST_SECONDS: Final = 60.0


def pause_after(failures: int, first: float) -> float:
    """Seconds to wait after so many failures in a row: doubled each time, at most a minute.

    `first` may be longer than a minute; then it is always waited.
    """
    doubled = first * 2.0 ** min(failures - 1, 30)
    return min(doubled, max(first, MOST_SECONDS))


async def pause(federation: Federation, failures: int, what: str, why: str) -> None:
    """Waits before `what` is tried again, saying why; ends early once a client has come.

    Raises WorkInterruptedError.
    """
    await federation.work.run(_pause(federation, failures, what, why))


async def _pause(federation: Federation, failures: int, what: str, why: str) -> None:
    wait = pause_after(failures, federation.defaults.retry_wait)
    until = time.monotonic() + wait
    present = set(federation.eligible())
    reason = f"; {why}" if why else ""
    federation.waits_for(WaitKind.RETRY, f"trying {what} again in {wait:.1f} s{reason}")
    try:
        while (left := until - time.monotonic()) > 0 and set(federation.eligible()) <= present:
            await federation.cohort.wait_for_change(left)
    finally:
        federation.waits_no_more()
