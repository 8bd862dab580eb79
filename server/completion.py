"""The end of a job: what was stored is checked, what is older is destroyed, the new is released."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from sqlalchemy import Connection

from fednot import tracing
from fednot.errors import FednotError
from server.audit import note_job_end
from server.federation import Federation
from server.methods import method_named
from server.receipts.desk import Receipts
from server.records import Job, JobPhase, Version, WaitKind
from server.starting_point import starting_point
from server.state import (
    destruction_rows,
    job_rows,
    kept_update_rows,
    release_rows,
    version_rows,
)
from server.state.commits import Commit
from server.state.database import StateUnavailableError
from server.state.model_store import ModelStoreError, sha256_of

log = logging.getLogger("server.completion")

TICK: Final = 1.0


class Completion:
    """Completes jobs that are VERIFYING."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    async def has_begun(self, job: Job) -> bool:
        """Whether the base is destroyed, or held: then all that comes before was passed."""
        base = await self._federation.database.read(
            lambda c: version_rows.get_version(c, job.base_version)
        )
        return base is None or base.destroyed_at is not None or bool(base.held_by)

    async def step(self, job: Job) -> str:
        """Destroys the old versions, then releases the new one, whose bytes are read back.

        The job is COMPLETED only once the files are gone, and the clients that are there have said
        that they keep nothing either, or had time to. Returns what is wrong with what was stored,
        "" if nothing is.
        """
        federation, current = self._federation, self._federation.model.current
        if not await self.has_begun(job):
            failure = await self._unreadable(current.number)
            if failure:
                return failure
            await federation.database.write(
                Commit.VERSIONS_DESTROYED, lambda c: self._give_up_older(c, job, current)
            )
        with tracing.span("release", job=job.id, version=current.number):
            await self._release(job, current)
        return ""

    async def _release(self, job: Job, current: Version) -> None:
        federation = self._federation
        federation.destructions.tell()
        await federation.model.sweep()
        await federation.history.sweep()
        await federation.work.run(self._await_clients(job))
        await federation.database.write(
            Commit.JOB_COMPLETED, lambda c: _complete(c, job, current.number, federation.receipts)
        )
        fields = {"version": current.number, "outcome": "completed"}
        log.info("%s completed with version %d", job.id, current.number, extra=fields)

    def _give_up_older(self, connection: Connection, job: Job, current: Version) -> None:
        now = time.time()
        if job.retain and job_rows.get_job(connection, job.id).hold_lifted_at is None:
            version_rows.hold(connection, before=current.number, by=job.id)
        else:
            version_rows.destroy(connection, before=current.number, by=job.id, now=now)
        chosen = [a for a in job.attempts if a.number == job.chosen_attempt] or job.attempts
        start, line = chosen[-1].start_version, current.number
        kept_update_rows.destroy(connection, before=start, current=line, by=job.id, now=now)
        self._federation.destructions.order(connection, job.id, current.generation, now)

    async def _await_clients(self, job: Job) -> None:
        federation = self._federation
        until = time.monotonic() + federation.defaults.destruction_wait
        try:
            while (left := until - time.monotonic()) > 0:
                mark = federation.changes.mark()
                owed = await federation.database.read(
                    lambda c: destruction_rows.outstanding(c, job.id)
                )
                there = sorted(set(owed) & federation.cohort.connected())
                if not there:
                    return
                federation.waits_for(
                    WaitKind.DESTRUCTION,
                    f"waiting for {', '.join(there)} to destroy what they keep of older versions",
                )
                await federation.changes.wait(min(left, TICK), mark)
        finally:
            federation.waits_no_more()

    async def _unreadable(self, number: int) -> str:
        try:
            await self._federation.model.read_back(number)
        except StateUnavailableError:
            raise
        except (ModelStoreError, FednotError) as error:
            return f"a version could not be read back: {error}"
        return ""

    async def stored_fault(self, job: Job) -> str:
        """What is wrong with what was stored of the last attempt and its base, "" if nothing is."""
        attempt = job.attempts[-1]
        model = self._federation.model
        try:
            base, base_flat = await model.read_back(job.base_version)
            start, _ = await model.read_back(attempt.start_version)
            await model.read_back(model.current.number)
        except StateUnavailableError:
            raise
        except (ModelStoreError, FednotError) as error:
            return f"a version could not be read back: {error}"
        method = method_named(attempt.method)
        twice = set(attempt.tensors) & set(base.negated_tensors)
        if method.negates and twice:
            return f"{', '.join(sorted(twice))} would be negated twice in its lineage"
        expected = await starting_point(self._federation, method, attempt.tensors, base, base_flat)
        if await asyncio.to_thread(sha256_of, expected) != start.sha256:
            return f"version {start.number} is not what {attempt.method} makes of {base.number}"
        return ""


def _complete(connection: Connection, job: Job, version: int, receipts: Receipts) -> None:
    now = time.time()
    job_rows.move(connection, job, JobPhase.COMPLETED, now)
    note_job_end(connection, job.id, JobPhase.COMPLETED, now)
    if release_rows.may_release(connection):
        version_rows.set_released(connection, version)
        job_rows.set_released_by(connection, job.id, version)
    receipts.issue(connection, job.id, now)
