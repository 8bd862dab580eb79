"""Notices what time alone brings about: approvals that expire, and deadlines that pass."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection

from server import approvals
from server.federation import Federation
from server.records import NOBODY, AuditEvent
from server.state import approval_rows, audit_rows, deadline_rows
from server.state.commits import Commit

log = logging.getLogger("server.clock")

TICK: Final = 1.0


class Clock:
    """Looks at the time every second or so."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    async def run(self) -> None:
        """Looks at every tick until it is cancelled. A fault is logged, and looked at again."""
        while True:
            try:
                await self._expire_approvals()
                await self._note_deadlines()
            except Exception:
                log.exception("what time brings about could not be looked at; trying again")
            await asyncio.sleep(TICK)

    async def _expire_approvals(self) -> None:
        federation, now = self._federation, time.time()
        longest = federation.defaults.job_deadline
        if not await federation.database.read(
            lambda c: approval_rows.overdue(c, now, longest=longest)
        ):
            return
        told = await federation.database.write(
            Commit.APPROVALS_EXPIRED, lambda c: approvals.expire(c, now, job_deadline=longest)
        )
        if told:
            log.warning("%s", "; ".join(told))
        await federation.reload_fences()

    async def _note_deadlines(self) -> None:
        federation, now = self._federation, time.time()
        if not await federation.database.read(lambda c: deadline_rows.newly_late(c, now)):
            return
        late = await federation.database.write(Commit.DEADLINES_NOTED, lambda c: _note_late(c, now))
        for each in late:
            was_due = datetime.fromtimestamp(each.not_after, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
            log.warning("deletion %s was due at %s and goes on", each.request_id, was_due)
        federation.changes.beat()


def _note_late(connection: Connection, now: float) -> list[deadline_rows.Late]:
    late = list(deadline_rows.newly_late(connection, now))
    deadline_rows.note_overdue(connection, late, now)
    for each in late:
        subject = f"client/{each.client}"
        event = AuditEvent(NOBODY, "deletion.overdue", subject, job_id=each.job_id)
        audit_rows.append(connection, event, now)
    return late
