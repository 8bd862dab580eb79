"""Deletions whose scopes stand: what may not be asked for again, or cannot be asked for at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, select

from fednot.errors import FednotError, Reason
from server.phases import ENDED
from server.records import JobPhase, Scope, ScopeKind
from server.refusals import JOB_KEY
from server.state.schema import clients, jobs, requests, scopes
from server.state.scope_rows import is_standing


class Standing(NamedTuple):
    """A request of which a scope stands, with its job."""

    request_id: str
    job_id: str
    phase: JobPhase

    @property
    def metadata(self) -> dict[str, str]:
        """What an error that names this request carries."""
        return {"request_id": self.request_id, JOB_KEY: self.job_id}


def standing_jobs(connection: Connection, client: str) -> Sequence[Standing]:
    """The requests that bar the whole of a client, newest first, with their jobs."""
    return _standing(connection, scopes.c.kind == ScopeKind.CLIENT, scopes.c.client == client)


def standing_about(connection: Connection, client: str) -> Sequence[Standing]:
    """The requests that bar a client or some of its samples, newest first, with their jobs."""
    return _standing(connection, scopes.c.client == client)


def check_no_deletion_is_open(standing: Sequence[Standing], what: str) -> None:
    """Raises FednotError (DELETION_IN_PROGRESS) if one of these has not ended."""
    for each in standing:
        if each.phase not in ENDED:
            raise FednotError(
                Reason.DELETION_IN_PROGRESS,
                f"{what} is being forgotten by deletion {each.request_id}",
                metadata=each.metadata,
            )


def check_forgettable(connection: Connection, scope: Scope) -> None:
    """Raises FednotError if a scope cannot be asked for.

    UNKNOWN_CLIENT; CLIENT_ALREADY_FORGOTTEN or CLASS_ALREADY_FORGOTTEN by a deletion that has
    completed; DELETION_IN_PROGRESS; UNSUPPORTED_SCOPE with what the client's Task gave as the
    reason.
    """
    if scope.kind is ScopeKind.CLASS:
        of_class = _standing(connection, scopes.c.label == scope.label)
        _check_none(of_class, f"class {scope.label}", Reason.CLASS_ALREADY_FORGOTTEN)
        _check_supported(connection, "class", of_client=None)
        return
    known = select(clients.c.name).where(clients.c.name == scope.client)
    if connection.execute(known).first() is None:
        raise FednotError(Reason.UNKNOWN_CLIENT, f"no client {scope.client!r} has ever joined")
    standing = standing_jobs(connection, scope.client)
    _check_none(standing, f"client {scope.client}", Reason.CLIENT_ALREADY_FORGOTTEN)
    if scope.kind is ScopeKind.SAMPLES:
        _check_supported(connection, "samples", of_client=scope.client)
        if scope.subject:
            _check_supported(connection, "subject", of_client=scope.client)
        else:
            same = _standing(
                connection, scopes.c.client == scope.client, scopes.c.sha256 == scope.sha256
            )
            check_no_deletion_is_open(same, f"what client {scope.client} has barred")


def _check_none(standing: Sequence[Standing], what: str, reason: Reason) -> None:
    check_no_deletion_is_open(standing, what)
    for each in standing:
        if each.phase is JobPhase.COMPLETED:
            raise FednotError(
                reason,
                f"{what} was forgotten by deletion {each.request_id}",
                metadata=each.metadata,
            )


def _check_supported(connection: Connection, kind: str, *, of_client: str | None) -> None:
    """Of one client, or with None of every one that may still train."""
    query = select(clients.c.name, clients.c.unsupported_scopes).order_by(clients.c.name)
    if of_client is not None:
        query = query.where(clients.c.name == of_client)
    else:
        barred = select(scopes.c.client).where(scopes.c.kind == ScopeKind.CLIENT, is_standing())
        query = query.where(clients.c.name.not_in(barred))
    for row in connection.execute(query):
        if kind in row.unsupported_scopes:
            raise FednotError(
                Reason.UNSUPPORTED_SCOPE,
                f"client {row.name} cannot forget this ({kind}): {row.unsupported_scopes[kind]}",
            )


def _standing(connection: Connection, *which: ColumnElement[bool]) -> Sequence[Standing]:
    query = (
        select(requests.c.request_id, requests.c.job_id, jobs.c.phase)
        .join(scopes, scopes.c.request == requests.c.sequence)
        .join(jobs, jobs.c.id == requests.c.job_id)
        .where(*which, is_standing())
        .order_by(requests.c.sequence.desc())
    )
    found = connection.execute(query)
    return [Standing(row.request_id, row.job_id, JobPhase(row.phase)) for row in found]
