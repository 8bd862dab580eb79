"""Whether the state allows that a version is released."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, select

from server.records import JobPhase, ScopeKind
from server.state import version_rows
from server.state.schema import attempts, forget_orders, jobs, requests, scopes, versions


def may_release(connection: Connection) -> bool:
    """Whether a version may be released: no job is open, and no scope's last one has failed.

    The model may still hold what a failed job was to take out, until another job for the same
    scope, or for the whole client that held the samples, completes, or any job retrains from the
    initial version.
    """
    found = connection.execute(_asked()).all()
    phases = {JobPhase(row.phase) for row in found}
    if JobPhase.FAILED not in phases:
        return phases <= {JobPhase.COMPLETED}
    latest: dict[_What, JobPhase] = {}
    for row in found:
        if row.phase == JobPhase.COMPLETED:
            if _retrained(connection, row.job_id):
                latest.clear()
            elif row.kind == ScopeKind.CLIENT:
                latest = {what: phase for what, phase in latest.items() if what[1] != row.client}
        latest[_what(row)] = JobPhase(row.phase)
    return set(latest.values()) <= {JobPhase.COMPLETED}


_What = tuple[str, str, object]


def _what(row: Row[Any]) -> _What:
    """What a scope names: samples by the digest of their ids, which is the same whoever asks."""
    if row.kind == ScopeKind.CLASS:
        return row.kind, "", row.label
    return row.kind, row.client, row.barred or row.sha256 or row.tombstone


def _asked() -> Select[Any]:
    """Every scope of every job that was not cancelled, in the order in which they were asked."""
    barred = (
        select(forget_orders.c.sha256)
        .where(forget_orders.c.scope == scopes.c.id, scopes.c.kind == ScopeKind.SAMPLES)
        .scalar_subquery()
    )
    return (
        select(scopes, jobs.c.phase, jobs.c.id.label("job_id"), barred.label("barred"))
        .join(requests, requests.c.sequence == scopes.c.request)
        .join(jobs, jobs.c.id == requests.c.job_id)
        .where(jobs.c.phase != JobPhase.CANCELLED)
        .order_by(requests.c.sequence, scopes.c.id)
    )


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
