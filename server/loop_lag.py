"""How late the event loop is: whatever keeps it busy keeps every client waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

EVERY: Final = 0.25


async def watch(*lagged: Callable[[float], None], every: float = EVERY) -> None:
    """Tells, until it is cancelled, by how many seconds each of many short sleeps was too long."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + every
        await asyncio.sleep(every)
        late = max(0.0, loop.time() - due)
        for told in lagged:
            told(late)
