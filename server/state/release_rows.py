"""Whether the state allows that a version is released."""

from __future__ import annotations

from sqlalchemy import Connection, select

from server.records import JobPhase
from server.state import version_rows
from server.state.schema import attempts, jobs, requests, versions


def may_release(connection: Connection) -> bool:
    """Whether a version may be released: no job is open, and no client's last one has failed.

    The model may still hold what a failed job was to take out, until another job for that client
    completes, or any job retrains from the initial version.
    """
    ended = (
        select(requests.c.client, jobs.c.phase, jobs.c.id)
        .join(jobs, jobs.c.id == requests.c.job_id)
        .where(jobs.c.phase != JobPhase.CANCELLED)
        .order_by(requests.c.sequence)
    )
    found = connection.execute(ended).all()
    phases = {JobPhase(row.phase) for row in found}
    if JobPhase.FAILED not in phases:
        return phases <= {JobPhase.COMPLETED}
    latest: dict[str, JobPhase] = {}
    for row in found:
        if row.phase == JobPhase.COMPLETED and _retrained(connection, row.id):
            latest.clear()
        latest[row.client] = JobPhase(row.phase)
    return set(latest.values()) <= {JobPhase.COMPLETED}


def _retrained(connection: Connection, job_id: str) -> bool:
    """Whether the attempt that a job kept, or its last one, started from the initial version."""
    query = (
        select(versions.c.sha256)
        .join(attempts, attempts.c.start_version == versions.c.number)
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .where(attempts.c.job_id == job_id)
        .order_by((attempts.c.number == jobs.c.chosen_attempt).desc(), attempts.c.number.desc())
    )
    start = connection.execute(query.limit(1)).first()
    return start is not None and start.sha256 == version_rows.initial_version(connection).sha256
