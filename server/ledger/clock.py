"""Notes in the ledger what has ended in the database, a moment later."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from sqlalchemy import Connection, func, select

from server.ledger.file import Ledger
from server.ledger.requests import endings
from server.records import JobPhase
from server.state.commits import Commit
from server.state.database import Database
from server.state.schema import jobs, scopes

log = logging.getLogger("server.ledger")

TICK: Final = 1.0


class LedgerClock:
    """Looks at every tick for deletions that completed and bars that were lifted.

    They are noted after their commit: what a crash keeps out of the ledger is noted at the next
    start, and until then the ledger asks for more than is due, never for less.
    """

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._counts: tuple[int, int] | None = None

    async def run(self) -> None:
        """Looks until it is cancelled. A fault is logged, and looked at again."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("the ledger could not be written to; trying again")
            await asyncio.sleep(TICK)

    async def finish(self) -> None:
        """Looks a last time, at a stop. A fault is logged, and made good by the next start."""
        try:
            await self.look()
        except Exception as error:
            log.warning("what has ended just now is not in the ledger yet: %s", error)

    async def look(self) -> None:
        """Notes what has ended since the last look."""
        counts = await self._database.read(_ended)
        if counts != self._counts:
            await self._database.write(Commit.LEDGER_NOTED, self._note)
            self._counts = counts

    def _note(self, connection: Connection) -> None:
        self._ledger.append(connection, endings(connection, self._ledger), time.time())


def _ended(connection: Connection) -> tuple[int, int]:
    completed = select(func.count()).where(jobs.c.phase == JobPhase.COMPLETED)
    lifted = select(func.count()).where(scopes.c.lifted_at.is_not(None))
    return (
        connection.execute(completed).scalar_one(),
        connection.execute(lifted).scalar_one(),
    )
