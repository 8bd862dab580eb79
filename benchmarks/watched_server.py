"""The product's server beside a task that writes how late its event loop comes back.

Each line of the file that BENCH_LAG names is the monotonic time and the seconds of lateness of one
look, every 5 ms; looks that were less than 5 ms late are left out.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Final

import server.__main__ as program
from server.settings import ServerSettings

VARIABLE: Final = "BENCH_LAG"
EVERY_SECONDS: Final = 0.005
_serve = program.serve


async def _watch(path: Path) -> None:
    with path.open("a", buffering=1) as file:
        while True:
            due = time.monotonic() + EVERY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
            late = time.monotonic() - due
            if late > EVERY_SECONDS:
                file.write(f"{time.monotonic()} {late}\n")


async def _watched(settings: ServerSettings) -> None:
    watching = asyncio.create_task(_watch(Path(os.environ[VARIABLE])))
    try:
        await _serve(settings)
    finally:
        watching.cancel()


def longest_lag(text: str, since: float) -> float:
    """The longest lateness, in seconds, of what was written since a monotonic time."""
    rows = [line.split() for line in text.splitlines()]
    return max((float(late) for at, late in rows if float(at) >= since), default=0.0)


if __name__ == "__main__":
    program.serve = _watched
    program.main()
