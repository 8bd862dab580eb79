"""Updates that are kept in the database: whose, of which round, under which hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, delete, insert, select, update

from server.records import NOBODY, AuditEvent, KeptUpdate, StoredUpdates, VersionOrigin
from server.state import audit_rows
from server.state.schema import kept_updates, versions

MOST_NAMES: Final = 1000
"""How many values a statement names; databases take no more than some ten thousand."""


def insert_updates(connection: Connection, updates: Iterable[KeptUpdate]) -> None:
    """Notes the updates of a round, in the transaction that makes its version."""
    rows = [asdict(each) for each in updates]
    if rows:
        connection.execute(insert(kept_updates), rows)


class Link(NamedTuple):
    """What is looked at of a version in a line."""

    number: int
    origin: str
    round: int


def line_of(connection: Connection, number: int) -> list[Link]:
    """The versions of a lineage down to the one of a number, its first one first."""
    columns = (versions.c.number, versions.c.origin, versions.c.round)
    links = (versions.c.parent, versions.c.lineage)
    line = select(*columns, *links).where(versions.c.number == number).cte(recursive=True)
    parent = (versions.c.number == line.c.parent) & (versions.c.lineage == line.c.lineage)
    line = line.union_all(select(*columns, *links).join(line, parent))
    query = select(line.c.number, line.c.origin, line.c.round).order_by(line.c.number)
    return [Link(*row) for row in connection.execute(query)]


def of_line(connection: Connection, number: int) -> list[tuple[KeptUpdate, ...]] | None:
    """The kept updates that made a version, by round, oldest first.

    The `stride` of each is how many rounds there are to the next, or to the version. None if they
    do not tell how it was made: the first round is not kept, there is a longer gap between two
    rounds than they say, or something else than averaging changed the model.
    """
    kept = _by_base(connection)
    found: list[tuple[KeptUpdate, ...]] = []
    spans: list[int] = []
    for before, after in pairwise(line_of(connection, number)):
        updates = kept.get(before.number)
        if updates:
            found.append(updates)
            spans.append(0)
        if after.origin == VersionOrigin.CHOSEN:
            continue
        if not found or spans[-1] == found[-1][0].stride or not (after.round or updates):
            return None
        spans[-1] += 1
    return [
        tuple(replace(each, stride=span) for each in updates)
        for updates, span in zip(found, spans, strict=True)
    ] or None


def may_go_on(connection: Connection, number: int) -> bool:
    """Whether the kept updates tell how a version was made, or nothing made it yet."""
    return len(line_of(connection, number)) == 1 or of_line(connection, number) is not None


def hashes(connection: Connection) -> frozenset[str]:
    """The sha256 of every update whose bytes must be kept."""
    query = select(kept_updates.c.sha256).where(kept_updates.c.destroyed_by == "")
    return frozenset(connection.execute(query).scalars())


def forget_missing(connection: Connection, present: frozenset[str]) -> int:
    """Drops the rows of rounds of which an update's bytes are gone, as after a restore.

    The whole round goes, for the rest of it does not tell what it added. Returns how many rows.
    """
    rounds = _by_base(connection)
    gone = [base for base, kept in rounds.items() if not {e.sha256 for e in kept} <= present]
    for start in range(0, len(gone), MOST_NAMES):
        bases = kept_updates.c.base_version.in_(gone[start : start + MOST_NAMES])
        connection.execute(delete(kept_updates).where(bases, kept_updates.c.destroyed_by == ""))
    return sum(len(rounds[base]) for base in gone)


def destroy(connection: Connection, *, before: int, current: int, by: str, now: float) -> None:
    """Marks what was trained before a version, or is not of the current one's line, as destroyed.

    The files are deleted by whoever calls this, once the transaction is committed.
    """
    stays = [each.number for each in line_of(connection, current) if each.number >= before]
    old = (kept_updates.c.base_version.not_in(stays), kept_updates.c.destroyed_by == "")
    changed = connection.execute(update(kept_updates).where(*old).values(destroyed_by=by))
    if changed.rowcount:
        event = AuditEvent(NOBODY, "updates.destroyed", job_id=by, count=changed.rowcount)
        audit_rows.append(connection, event, now)


def stored(connection: Connection, destroyed_by: str = "") -> StoredUpdates:
    """What is kept now, or what a job destroyed."""
    query = select(kept_updates).where(kept_updates.c.destroyed_by == destroyed_by)
    rows = connection.execute(query).all()
    names = "\n".join(sorted(row.sha256 for row in rows))
    return StoredUpdates(
        count=len(rows),
        num_bytes=sum(row.num_bytes for row in rows),
        sha256=hashlib.sha256(names.encode()).hexdigest() if rows else "",
    )


def _by_base(connection: Connection) -> dict[int, tuple[KeptUpdate, ...]]:
    query = select(kept_updates).where(kept_updates.c.destroyed_by == "")
    rows = connection.execute(query.order_by(kept_updates.c.base_version, kept_updates.c.client))
    found: dict[int, tuple[KeptUpdate, ...]] = {}
    for row in rows:
        found[row.base_version] = (*found.get(row.base_version, ()), _kept(row))
    return found


def _kept(row: Row[Any]) -> KeptUpdate:
    return KeptUpdate(
        base_version=row.base_version,
        client=row.client,
        sha256=row.sha256,
        num_examples=row.num_examples,
        num_bytes=row.num_bytes,
        stride=row.stride,
    )
