"""Which deletions are open, since when, and which of them are late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, func, select, update

from server.phases import ENDED
from server.state.schema import jobs, requests


class Late(NamedTuple):
    """A deletion that was not completed at `not_after`, in seconds since the epoch."""

    sequence: int
    request_id: str
    job_id: str
    not_after: float


def oldest_open(connection: Connection) -> float:
    """When the oldest open deletion was accepted, in seconds since the epoch; 0 if none is open."""
    query = select(func.min(requests.c.accepted_at)).join(jobs, jobs.c.id == requests.c.job_id)
    return connection.execute(query.where(jobs.c.phase.not_in(ENDED))).scalar() or 0.0


def newly_late(connection: Connection, now: float) -> Sequence[Late]:
    """The open deletions whose deadline has passed and that were not noted yet, oldest first."""
    columns = (requests.c.request_id, requests.c.job_id, requests.c.not_after)
    query = (
        select(requests.c.sequence, *columns)
        .join(jobs, jobs.c.id == requests.c.job_id)
        .where(
            requests.c.not_after <= now,
            requests.c.overdue_noted_at.is_(None),
            jobs.c.phase.not_in(ENDED),
        )
    )
    return [Late(*row) for row in connection.execute(query.order_by(requests.c.sequence))]


def note_overdue(connection: Connection, late: Sequence[Late], now: float) -> None:
    """Notes that these are late, so that each is told once."""
    which = requests.c.sequence.in_([each.sequence for each in late])
    connection.execute(update(requests).where(which).values(overdue_noted_at=now))


def count_overdue(connection: Connection) -> int:
    """How many deletions are open although their `not_after` has passed."""
    query = select(func.count()).select_from(requests).join(jobs, jobs.c.id == requests.c.job_id)
    late = (requests.c.overdue_noted_at.is_not(None), jobs.c.phase.not_in(ENDED))
    return connection.execute(query.where(*late)).scalar() or 0
