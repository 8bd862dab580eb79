"""The audit says of a refusal whom and which job it was about, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import Connection
from support.served import CALL, Served, refusal, served
from support.state import BY_TEST, DORA, EMIL, accepted, client, deletion_of, driven

from fednot.identity.subject import Role
from fednot.v1 import (
    approval_pb2,
    approval_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    deletion_pb2,
    deletion_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    operator_pb2,
    operator_pb2_grpc,
)
from server import approvals
from server.records import JobPhase
from server.state import client_rows

UNTIL = 9e9


@dataclass(frozen=True)
class Known:
    """The jobs and approvals of the deletions r1 (waits), r2 (refused) and r3 (completed)."""

    jobs: dict[str, str]
    approvals: dict[str, str]


def known(connection: Connection) -> Known:
    """Each deletion is about the client of its number; c4 has none."""
    for name in ("c1", "c2", "c3", "c4"):
        client_rows.record_join(connection, client(name))
    for name in ("1", "2"):
        accepted(connection, f"r{name}", f"c{name}", DORA, UNTIL)
    accepted(connection, "r3", "c3", DORA)
    found = {name: deletion_of(connection, name) for name in ("r1", "r2", "r3")}
    waiting = {name: each.approval.id for name, each in found.items() if each.approval}
    approvals.refuse(connection, waiting["r2"], EMIL, 20.0)
    driven(connection, "r3", JobPhase.COMPLETED)
    return Known({name: each.job.id for name, each in found.items()}, waiting)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(tmp_path_factory.mktemp("subjects")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at(server: Served) -> Known:
    return await server.federation.database.write(BY_TEST, known)


Ask = Callable[[Any, Known], Awaitable[Any]]


def approve(name: str) -> Ask:
    return lambda channel, at: approval_pb2_grpc.ApprovalServiceStub(channel).Approve(
        approval_pb2.ApproveRequest(id=at.approvals[name]), timeout=CALL
    )


def refuse(name: str) -> Ask:
    return lambda channel, at: approval_pb2_grpc.ApprovalServiceStub(channel).Refuse(
        approval_pb2.RefuseRequest(id=at.approvals[name]), timeout=CALL
    )


def readmit(name: str) -> Ask:
    return lambda channel, _: operator_pb2_grpc.OperatorServiceStub(channel).ReadmitClient(
        operator_pb2.ReadmitClientRequest(client=name), timeout=CALL
    )


def unlearn(name: str, **values: Any) -> Ask:
    request = deletion_pb2.UnlearnRequest(scope=deletion_pb2.Scope(client=name), **values)
    return lambda channel, _: deletion_pb2_grpc.DeletionServiceStub(channel).Unlearn(
        request, timeout=CALL
    )


def cancel(name: str) -> Ask:
    return lambda channel, _: deletion_pb2_grpc.DeletionServiceStub(channel).CancelDeletion(
        deletion_pb2.CancelDeletionRequest(request_id=name), timeout=CALL
    )


def token(name: str, seconds: int) -> Ask:
    request = identity_pb2.CreateTokenRequest(client=name, valid_for=Duration(seconds=seconds))
    return lambda channel, _: identity_pb2_grpc.IdentityServiceStub(channel).CreateToken(
        request, timeout=CALL
    )


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("caller", "ask", "reason", "subject", "request_id"),
    [
        ("officer/dora", approve("r1"), "SECOND_PERSON_NEEDED", "client/c1", "r1"),
        ("officer/fred", approve("r2"), "APPROVAL_ENDED", "client/c2", "r2"),
        ("officer/fred", refuse("r2"), "APPROVAL_ENDED", "client/c2", "r2"),
        ("operator/olga", readmit("c1"), "DELETION_IN_PROGRESS", "client/c1", "r1"),
        ("operator/olga", readmit("c4"), "CLIENT_NOT_BARRED", "client/c4", ""),
        ("officer/dora", unlearn("c1"), "DELETION_IN_PROGRESS", "client/c1", "r1"),
        ("officer/dora", unlearn("c3"), "CLIENT_ALREADY_FORGOTTEN", "client/c3", "r3"),
        ("officer/dora", unlearn("c4", method="x"), "UNKNOWN_METHOD", "client/c4", ""),
        ("officer/dora", unlearn("c4", request_id="r3"), "REQUEST_ID_REUSED", "client/c4", ""),
        ("officer/dora", unlearn("nobody"), "UNKNOWN_CLIENT", "", ""),
        ("client/c1", unlearn("c4"), "NOT_YOUR_DELETION", "client/c4", ""),
        ("officer/dora", cancel("r3"), "NOT_CANCELLABLE", "client/c3", "r3"),
        ("client/c1", cancel("r1"), "NOT_YOUR_DELETION", "client/c1", "r1"),
        ("client/c4", cancel("r1"), "UNKNOWN_DELETION", "", ""),
        ("operator/olga", token("c2", 0), "INVALID_REQUEST", "client/c2", ""),
        ("client/c4", approve("r1"), "WRONG_ROLE", "", ""),
    ],
)
async def test_a_refusal_says_about_whom_and_which_job(
    server: Served, at: Known, caller: str, ask: Ask, reason: str, subject: str, request_id: str
) -> None:
    """For WRONG_ROLE the request was not read, and what is not the caller's own is not told."""
    role, _, name = caller.partition("/")

    refused = await refusal(ask(server.dial(Role(role), name), at))

    assert refused.reason == reason
    stub = audit_pb2_grpc.AuditServiceStub(server.dial(Role.AUDITOR, "ann"))
    page = await stub.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(), timeout=CALL)
    entry = page.entries[-1]
    job_id = at.jobs[request_id] if request_id else ""
    assert (entry.actor_name, entry.reason) == (caller, reason)
    assert (entry.subject_name, entry.job_id) == (subject, job_id)
    if reason == "UNKNOWN_DELETION":
        assert not {"client", "job_id"} & set(refused.metadata)
