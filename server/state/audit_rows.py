"""The audit in the database: a chain of rows that is only ever appended to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from sqlalchemy import Connection, insert, select

from fednot.audit_chain import Entry, Head, hash_of
from server.records import AuditEvent
from server.state.pseudonym_rows import PREFIX, pseudonym_of
from server.state.schema import audit


def append(connection: Connection, event: AuditEvent, now: float) -> None:
    """Appends an entry in this transaction, so that it is written if and only if the rest is."""
    last = head(connection)
    entry = Entry(
        sequence=last.entries + 1,
        at_microseconds=round(now * 1e6),
        actor=pseudonym_of(connection, event.caller.key),
        role=event.caller.role or "",
        action=event.action,
        subject=_subject(connection, event.subject),
        outcome=event.outcome,
        reason=event.reason,
        job_id=event.job_id,
        version=event.version,
        count=event.count,
        previous_hash=last.hash,
    )
    connection.execute(insert(audit).values(**asdict(replace(entry, hash=hash_of(entry)))))


def head(connection: Connection) -> Head:
    """Where the chain ends now."""
    query = select(audit.c.sequence, audit.c.hash).order_by(audit.c.sequence.desc())
    row = connection.execute(query.limit(1)).first()
    return Head(row.sequence, row.hash) if row else Head()


def list_entries(connection: Connection, after: int, size: int) -> Sequence[Entry]:
    """Entries with a sequence number above `after`, oldest first."""
    query = select(audit).where(audit.c.sequence > after).order_by(audit.c.sequence)
    return [Entry(**row._mapping) for row in connection.execute(query.limit(size))]


def list_newest(connection: Connection, before: int, size: int) -> Sequence[Entry]:
    """Entries with a sequence number below `before` (0: all), newest first."""
    query = select(audit).order_by(audit.c.sequence.desc())
    if before:
        query = query.where(audit.c.sequence < before)
    return [Entry(**row._mapping) for row in connection.execute(query.limit(size))]


def _subject(connection: Connection, subject: str) -> str:
    is_pseudonym = subject.startswith(PREFIX) and "/" not in subject
    return subject if is_pseudonym else pseudonym_of(connection, subject)
