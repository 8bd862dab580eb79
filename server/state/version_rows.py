"""Model versions in the database, and which of them is current and which released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update

from fednot.naming import JOB_ID
from server.records import NOBODY, AuditEvent, DestroyedVersion, JobPhase, Version, VersionOrigin
from server.state import audit_rows
from server.state.schema import federation, jobs, versions

_PINNING: Final = (JobPhase.NEGATING, JobPhase.RECOVERING, JobPhase.VERIFYING)


def insert_version(connection: Connection, version: Version) -> None:
    """Adds a version and makes it the current one."""
    row = asdict(version)
    row["negated_tensors"] = list(version.negated_tensors)
    row["metrics"] = dict(version.metrics)
    connection.execute(insert(versions).values(**row, destroyed_by=""))
    connection.execute(update(federation).values(current_version=version.number))


def set_released(connection: Connection, number: int) -> None:
    """Releases a version; 0 withdraws the release."""
    connection.execute(update(federation).values(released_version=number))


def get_version(connection: Connection, number: int) -> Version | None:
    """The version of a number."""
    row = connection.execute(select(versions).where(versions.c.number == number)).first()
    return _version(row) if row else None


def current_and_released(connection: Connection) -> tuple[Version | None, Version | None]:
    """The current and the released version."""
    row = connection.execute(select(federation)).one()
    return (
        get_version(connection, row.current_version),
        get_version(connection, row.released_version),
    )


def initial_version(connection: Connection) -> Version:
    """The version that holds no client's data."""
    query = select(versions).where(versions.c.origin == VersionOrigin.INITIAL)
    return _version(connection.execute(query.order_by(versions.c.number)).first())


def list_versions(connection: Connection, before: int, size: int) -> Sequence[Version]:
    """Versions with a number below `before` (0: all), newest first."""
    query = select(versions).order_by(versions.c.number.desc()).limit(size)
    if before:
        query = query.where(versions.c.number < before)
    return [_version(row) for row in connection.execute(query)]


def next_number(connection: Connection) -> int:
    """The number of the next version."""
    return (connection.execute(select(func.max(versions.c.number))).scalar() or 0) + 1


def rounds_trained(connection: Connection, number: int) -> int:
    """How many rounds made a version, along its parents, since its initialisation.

    The steps of an unlearning method count too: versions of a step have one as their parent, or the
    start of their attempt.
    """
    columns = (versions.c.parent, versions.c.round, versions.c.lineage, versions.c.origin)
    line = select(*columns).where(versions.c.number == number)
    ancestors = line.cte(recursive=True)
    same_line = (versions.c.number == ancestors.c.parent) & (
        versions.c.lineage == ancestors.c.lineage
    )
    ancestors = ancestors.union_all(select(*columns).join(ancestors, same_line))
    before = versions.alias()
    is_step = (
        select(before.c.number)
        .where(
            before.c.number == ancestors.c.parent,
            before.c.lineage == ancestors.c.lineage,
            before.c.origin == VersionOrigin.UNLEARNING,
            ancestors.c.origin == VersionOrigin.UNLEARNING,
        )
        .exists()
    )
    query = select(func.count()).select_from(ancestors).where((ancestors.c.round > 0) | is_step)
    return connection.execute(query).scalar() or 0


def destroy(
    connection: Connection, *, before: int, by: str, now: float
) -> tuple[DestroyedVersion, ...]:
    """Marks every version older than `before` as destroyed by a job, or by a run that keeps few.

    Initial versions hold no data and always stay, and so does what is held, or pinned by another
    job. A file is deleted by whoever calls this, once the transaction is committed and no version
    that is kept has the same bytes.
    """
    pinned = select(jobs.c.base_version).where(jobs.c.phase.in_(_PINNING), jobs.c.id != by)
    old = (*_older(before), versions.c.number.not_in(pinned))
    return _destroy(connection, old, by, now)


def hold(connection: Connection, *, before: int, by: str) -> None:
    """Keeps, for a legal hold of a job, what `destroy` would mark."""
    connection.execute(update(versions).where(*_older(before)).values(held_by=by))


def lift_hold(connection: Connection, job_id: str, now: float) -> tuple[DestroyedVersion, ...]:
    """Marks what a job held as destroyed by it."""
    held = (versions.c.held_by == job_id, versions.c.destroyed_at.is_(None))
    return _destroy(connection, held, job_id, now)


def _older(before: int) -> tuple[ColumnElement[bool], ...]:
    return (
        versions.c.number < before,
        versions.c.origin != VersionOrigin.INITIAL,
        versions.c.destroyed_at.is_(None),
        versions.c.held_by == "",
    )


def _destroy(
    connection: Connection, which: tuple[ColumnElement[bool], ...], by: str, now: float
) -> tuple[DestroyedVersion, ...]:
    found = connection.execute(select(versions).where(*which).order_by(versions.c.number))
    doomed = [DestroyedVersion(row.number, row.sha256) for row in found]
    connection.execute(
        update(versions)
        .where(versions.c.number.in_([version.number for version in doomed]))
        .values(destroyed_at=now, destroyed_by=by)
    )
    if doomed and JOB_ID.fullmatch(by):
        event = AuditEvent(NOBODY, "versions.destroyed", job_id=by, count=len(doomed))
        audit_rows.append(connection, event, now)
    return tuple(doomed)


def kept_hashes(connection: Connection) -> frozenset[str]:
    """The sha256 of every version whose bytes must be kept."""
    query = select(versions.c.sha256).where(versions.c.destroyed_at.is_(None))
    return frozenset(connection.execute(query).scalars())


def destroyed_by(connection: Connection, job_id: str) -> tuple[DestroyedVersion, ...]:
    """The versions that a job destroyed."""
    query = select(versions).where(versions.c.destroyed_by == job_id).order_by(versions.c.number)
    return tuple(DestroyedVersion(row.number, row.sha256) for row in connection.execute(query))


def held_by(connection: Connection, job_id: str) -> tuple[DestroyedVersion, ...]:
    """The versions that a job holds and whose bytes are still there."""
    held = (versions.c.held_by == job_id, versions.c.destroyed_at.is_(None))
    query = select(versions).where(*held).order_by(versions.c.number)
    return tuple(DestroyedVersion(row.number, row.sha256) for row in connection.execute(query))


def _version(row: Row[Any] | None) -> Version:
    if row is None:
        raise LookupError("the state holds no such version")
    return Version(
        number=row.number,
        sha256=row.sha256,
        parent=row.parent,
        generation=row.generation,
        lineage=row.lineage,
        origin=VersionOrigin(row.origin),
        round=row.round,
        created_at=row.created_at,
        num_bytes=row.num_bytes,
        metrics=row.metrics,
        negated_tensors=tuple(row.negated_tensors),
        destroyed_at=row.destroyed_at,
        held_by=row.held_by,
    )
