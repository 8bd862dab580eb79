"""Keeps the gauges, the clients' last-seen times and the sessions' right to be there up to date."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from sqlalchemy import Connection

from server import fleet
from server.client_states import state_of
from server.cohorts.remote import RemoteCohort
from server.federation import Federation
from server.identity import ServerIdentity
from server.privacy import most
from server.records import ClientRecord, JobPhase, StoredUpdates, Version
from server.state import (
    anomaly_rows,
    client_rows,
    deadline_rows,
    deletion_rows,
    job_rows,
    kept_update_rows,
    phase_rows,
    version_rows,
)
from server.state.commits import Commit

log = logging.getLogger("server.monitor")

TICK: Final = 2.0
SEEN_EVERY: Final = 10.0
ODD_EVERY: Final = 1.0


class Monitor:
    """Refreshes what Prometheus sees, after each change and every few seconds, and closes sessions
    whose certificate was revoked or has ended.

    `identity` is None over plaintext.
    """

    def __init__(
        self,
        federation: Federation,
        cohort: RemoteCohort,
        identity: ServerIdentity | None = None,
        newest_move: int = 0,
    ) -> None:
        """Moves of jobs after the `newest_move` are counted."""
        self._federation = federation
        self._cohort = cohort
        self._identity = identity
        self._newest_move = newest_move
        self._seen_written = 0.0
        self.refreshed_at = 0.0
        federation.metrics.fleet.show_required(federation.defaults.rounds.min_clients)

    @classmethod
    async def of(
        cls, federation: Federation, cohort: RemoteCohort, identity: ServerIdentity | None
    ) -> Self:
        """A monitor that counts what jobs do from now on: an earlier server counted the rest."""
        newest = await federation.database.read(phase_rows.newest)
        return cls(federation, cohort, identity, newest)

    async def run(self) -> None:
        """Refreshes until it is cancelled."""
        while True:
            mark = self._federation.changes.mark()
            try:
                self._close_sessions()
                await self._refresh()
            except Exception:
                log.exception("the metrics could not be refreshed")
            await self._federation.changes.wait(TICK, mark)
            await asyncio.sleep(0.1)

    async def finish(self) -> None:
        """Writes the anomalies that were counted last; call it when all else has ended."""
        if not self._federation.anomalies.unwritten:
            return
        try:
            await self._write(frozenset())
        except Exception:
            log.exception("the newest anomalies could not be written")

    def _close_sessions(self) -> None:
        if self._identity is None:
            return
        for client in self._cohort.close_unless(self._identity.holds):
            log.warning("%s: its certificate no longer holds, its session is closed", client)

    async def _refresh(self) -> None:
        metrics = self._federation.metrics
        seen = await self._federation.database.read(lambda c: _snapshot(c, self._newest_move))
        current, released = seen.current, seen.released
        if current is not None:
            metrics.model.show(current, released.number if released else 0)
        connected, working = self._cohort.connected(), self._cohort.working()
        metrics.fleet.show_states(
            Counter(state_of(client, connected, working) for client in seen.clients)
        )
        metrics.deletions.show_jobs(seen.jobs, seen.oldest, overdue=seen.overdue)
        for move in seen.moves:
            metrics.deletions.moved(move.left, move.entered, move.seconds)
            self._newest_move = move.entry
        metrics.deletions.show_failed_verdicts(seen.failed_verdicts)
        metrics.deletions.show_kept_updates(seen.kept)
        metrics.transfers.show_buffered(self._federation.memory.in_use)
        metrics.faults.show_room(*self._federation.room.fullest)
        sessions = self._cohort.sessions()
        barred = sum(self._federation.fences.bar_of(name) is not None for name in sessions)
        fleet.show(metrics.fleet, sessions.values(), barred)
        spent = most(session.privacy for session in sessions.values())
        metrics.fleet.show_privacy(spent.epsilon if spent else 0.0)
        self._show_certificates()
        await self._write_seen(connected)
        self.refreshed_at = time.monotonic()

    def _show_certificates(self) -> None:
        if self._identity is None:
            return
        ends = [s.certificate_expires_at for s in self._cohort.sessions().values()]
        earliest = min((end for end in ends if end is not None), default=0.0)
        self._federation.metrics.identity.show(
            {**self._identity.certificate_expiries(), "clients": earliest},
            stale=bool(self._identity.fault),
        )

    async def _write_seen(self, connected: frozenset[str]) -> None:
        pause = ODD_EVERY if self._federation.anomalies.unwritten else SEEN_EVERY
        if time.monotonic() - self._seen_written < pause:
            return
        self._seen_written = time.monotonic()
        await self._write(connected)

    async def _write(self, connected: frozenset[str]) -> None:
        seen = {name: self._cohort.last_seen(name) for name in connected}
        anomalies, now = self._federation.anomalies, time.time()

        def command(connection: Connection) -> None:
            for name, at in seen.items():
                if at is not None:
                    client_rows.record_seen(connection, name, at)
            anomaly_rows.add(connection, odd, now)

        with anomalies.taken() as odd:
            await self._federation.database.write(Commit.CLIENTS_SEEN, command)


class _Snapshot(NamedTuple):
    current: Version | None
    released: Version | None
    clients: Sequence[ClientRecord]
    jobs: dict[JobPhase, int]
    oldest: float
    overdue: int
    failed_verdicts: dict[str, int]
    kept: StoredUpdates
    moves: Sequence[phase_rows.PhaseMove]


def _snapshot(connection: Connection, newest_move: int) -> _Snapshot:
    current, released = version_rows.current_and_released(connection)
    return _Snapshot(
        current,
        released,
        client_rows.list_clients(connection),
        deletion_rows.count_by_phase(connection),
        deadline_rows.oldest_open(connection),
        deadline_rows.count_overdue(connection),
        job_rows.count_failed_verdicts(connection),
        kept_update_rows.stored(connection),
        phase_rows.moves_after(connection, newest_move),
    )
