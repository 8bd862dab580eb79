"""The moves of unlearning jobs from phase to phase, each of which leaves a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from server.records import JobPhase
from server.state.schema import phase_entries


class PhaseMove(NamedTuple):
    """A job's move into a phase; `left` is the one before, in which it was for so many `seconds`.

    `left` is None for the first phase of a job. `entry` numbers the moves of all jobs.
    """

    entry: int
    left: JobPhase | None
    entered: JobPhase
    seconds: float


def newest(connection: Connection) -> int:
    """The number of the newest move; 0 if there is none."""
    return connection.execute(select(func.max(phase_entries.c.id))).scalar() or 0


def moves_after(connection: Connection, entry: int) -> Sequence[PhaseMove]:
    """The moves that are newer than that of a number, oldest first."""
    new, older, last = phase_entries, phase_entries.alias("older"), phase_entries.alias("last")
    before = (
        select(func.max(older.c.id))
        .where(older.c.job_id == new.c.job_id, older.c.id < new.c.id)
        .correlate(new)
        .scalar_subquery()
    )
    query = (
        select(
            new.c.id, new.c.phase, new.c.at, last.c.phase.label("left"), last.c.at.label("since")
        )
        .select_from(new.outerjoin(last, last.c.id == before))
        .where(new.c.id > entry)
        .order_by(new.c.id)
    )
    return [
        PhaseMove(
            row.id,
            JobPhase(row.left) if row.left else None,
            JobPhase(row.phase),
            max(0.0, row.at - row.since) if row.left else 0.0,
        )
        for row in connection.execute(query)
    ]
