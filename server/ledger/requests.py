"""Requests as the ledger notes them, read from their rows, and put back from a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from server.ledger.chain import Event, Note
from server.ledger.file import CANCELLED, READMITTED, Key, Ledger, Standing
from server.records import (
    NOBODY,
    Approval,
    ApprovalKind,
    AuditEvent,
    ClientRecord,
    JobPhase,
    Scope,
    ScopeKind,
)
from server.state import approval_rows, audit_rows, client_rows, deletion_rows, scope_rows
from server.state.schema import jobs, phase_entries, requests

_OF_REQUEST = ("caller", "request_id", "digest", "accepted_at", "not_after")
_OF_JOB = (
    "id",
    "method",
    "layers",
    "allow_unsafe_layers",
    "policy",
    "priority",
    "retain",
    "assurance",
)


@dataclass(frozen=True)
class Held:
    """What the database holds of a request: its job's phase, and whether any of it is barred.

    `what` is what it forgets, for a sentence.
    """

    what: str
    phase: JobPhase
    barred: bool


def held(connection: Connection) -> dict[Key, Held]:
    """Every request in the database, in the order in which they were accepted."""
    standing = scope_rows.standing_requests(connection)
    query = (
        select(requests, jobs.c.phase)
        .join(jobs, jobs.c.id == requests.c.job_id)
        .order_by(requests.c.sequence)
    )
    return {
        Key(row.caller, row.request_id): Held(
            told(scope_rows.of_request(connection, row.sequence)),
            JobPhase(row.phase),
            row.sequence in standing,
        )
        for row in connection.execute(query)
    }


def note_asked(connection: Connection, ledger: Ledger, key: Key, now: float) -> None:
    """Notes a request that this transaction accepts: it is in the ledger before it is committed."""
    ledger.append(connection, [asked(connection, key)], now)


def asked(connection: Connection, key: Key) -> Note:
    """The note with everything that it takes to make a request of the database again.

    That is the key of a person, too, as long as the state has it: without it nobody could find the
    samples again after a restore. A ledger forgets nothing, so the key should be a pseudonym.
    """
    query = (
        select(requests, *(jobs.c[name].label(f"of_job_{name}") for name in _OF_JOB))
        .join(jobs, jobs.c.id == requests.c.own_job_id)
        .where(requests.c.caller == key.caller, requests.c.request_id == key.request_id)
    )
    row = connection.execute(query).one()._mapping
    approval = approval_rows.of_job(connection, row["job_id"])
    payload = {name: row[name] for name in _OF_REQUEST}
    scopes = scope_rows.of_request(connection, row["sequence"])
    payload["scopes"] = [asdict(scope) for scope in scopes]
    payload["job"] = {name: row[f"of_job_{name}"] for name in _OF_JOB}
    payload["approval_seconds"] = approval and approval.expires_at - approval.requested_at
    return Note(Event.ASKED, payload)


def endings(connection: Connection, ledger: Ledger) -> list[Note]:
    """Notes of what has ended in the database and not yet in the ledger."""
    found = []
    for key, request in held(connection).items():
        noted = ledger.standings.get(key)
        if noted is None:
            continue
        named = {"caller": key.caller, "request_id": key.request_id}
        if request.phase is JobPhase.COMPLETED and not noted.completed:
            found.append(Note(Event.COMPLETED, named))
        if not request.barred and not noted.lifted:
            by = CANCELLED if request.phase is JobPhase.CANCELLED else READMITTED
            found.append(Note(Event.LIFTED, named | {"by": by}))
    return found


def requeue(connection: Connection, noted: Standing, now: float) -> None:
    """Makes a request again that the database does not hold: fence, withdrawn release, queued job.

    Its job has the id that the caller was told. Where a second identity had to approve, and the
    ledger does not say that the job completed, it is asked for that again.
    """
    values = noted.asked
    wanted = scopes_in(values)
    for client in dict.fromkeys(scope.client for scope in wanted if scope.client):
        if not client_rows.client_exists(connection, client):
            at = values["accepted_at"]
            client_rows.record_join(connection, ClientRecord(client, at, at, 0, 0, ""))
    unapproved = values["approval_seconds"] is not None and not noted.completed
    awaiting = unapproved or any(scope.subject for scope in wanted)
    job_id = _insert_job(connection, values["job"], now, awaiting=awaiting)
    if unapproved:
        until = now + values["approval_seconds"]
        kind, caller = ApprovalKind.DELETION, values["caller"]
        first = scope_rows.first_client(wanted)
        approval = Approval("", kind, first, caller, now, until, job_id)
        approval_rows.insert_approval(connection, approval)
    deletion_rows.fence(connection, _insert_request(connection, values, job_id), wanted, now)
    for subject in deletion_rows.subjects_of(wanted):
        event = AuditEvent(NOBODY, "ledger.requeued", subject, job_id=job_id)
        audit_rows.append(connection, event, now)


def scopes_in(asked: Mapping[str, Any]) -> tuple[Scope, ...]:
    """What a request forgets, by its note; before there were scopes, each named a client."""
    if "scopes" not in asked:
        return (Scope(ScopeKind.CLIENT, client=asked["client"]),)
    return tuple(Scope(**(each | {"kind": ScopeKind(each["kind"])})) for each in asked["scopes"])


def told(wanted: Sequence[Scope]) -> str:
    """What scopes forget, for a sentence; the key of a person is left out."""
    return ", ".join(dict.fromkeys(map(_told, wanted)))


def _told(scope: Scope) -> str:
    if scope.kind is ScopeKind.CLASS:
        return f"class {scope.label}"
    return f"{'samples of ' if scope.kind is ScopeKind.SAMPLES else ''}client {scope.client}"


def _insert_job(
    connection: Connection, values: Mapping[str, Any], now: float, *, awaiting: bool
) -> str:
    phase = JobPhase.AWAITING if awaiting else JobPhase.QUEUED
    connection.execute(insert(jobs).values(**values, phase=phase, created_at=now))
    entry = {"job_id": values["id"], "phase": phase, "at": now}
    connection.execute(insert(phase_entries).values(**entry))
    return str(values["id"])


def _insert_request(connection: Connection, values: Mapping[str, Any], job_id: str) -> int:
    row = {name: values[name] for name in _OF_REQUEST}
    row |= {"job_id": job_id, "own_job_id": job_id, "aborted_rounds": []}
    added = connection.execute(insert(requests).values(**row).returning(requests.c.sequence))
    return int(added.scalar_one())
