"""Notices what time alone brings about: approvals and confirmations that do not come in time, and
deadlines that pass.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection

from server import approvals, awaiting
from server.federation import Federation
from server.records import NOBODY, AuditEvent
from server.state import (
    approval_rows,
    audit_rows,
    deadline_rows,
    deletion_rows,
    job_rows,
    round_rows,
    scope_rows,
)
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
                await self._end_confirmations()
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

    async def _end_confirmations(self) -> None:
        """Has jobs go on without what clients have not confirmed in time; those stay out."""
        federation, now = self._federation, time.time()
        longest = federation.defaults.confirmation_wait
        if not await federation.database.read(lambda c: awaiting.late(c, now, longest)):
            return
        queued, goes_first = await federation.database.write(
            Commit.CONFIRMATIONS_OVERDUE, lambda c: _queued_without(c, now, longest)
        )
        for job_id in queued:
            log.warning("%s goes on without a client that has not confirmed in time", job_id)
        if goes_first:
            await federation.work.interrupt()
        federation.changes.beat()


def _queued_without(connection: Connection, now: float, longest: float) -> tuple[list[str], bool]:
    """The jobs that queue now, and whether training has to give way to one of them."""
    nothing_served = not job_rows.first_ready_id(connection)
    queued = [
        job.id
        for job in awaiting.late(connection, now, longest)
        if awaiting.advance(connection, job, now, confirmation_wait=longest)
    ]
    goes_first = bool(queued) and nothing_served
    if goes_first:
        round_rows.abort_running_rounds(connection, now)
    return queued, goes_first


def _note_late(connection: Connection, now: float) -> list[deadline_rows.Late]:
    late = list(deadline_rows.newly_late(connection, now))
    deadline_rows.note_overdue(connection, late, now)
    for each in late:
        for subject in deletion_rows.subjects_of(scope_rows.of_request(connection, each.sequence)):
            event = AuditEvent(NOBODY, "deletion.overdue", subject, job_id=each.job_id)
            audit_rows.append(connection, event, now)
    return late
