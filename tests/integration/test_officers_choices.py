"""Priority, deadline and legal hold of a deletion over RPC: whose to give, and where they show."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.served import CALL, Served, refusal, served
from support.state import BY_TEST, client

from fednot.errors import Reason
from fednot.identity.subject import Role
from fednot.v1 import deletion_pb2, operator_pb2
from fednot.v1.deletion_pb2_grpc import DeletionServiceStub
from fednot.v1.operator_pb2_grpc import OperatorServiceStub
from server.room import Room
from server.state import client_rows

DORA = (Role.OFFICER, "dora")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    """A server whose clients have joined and are gone; no coordinator runs, so jobs wait."""
    async with served(tmp_path) as found:
        for name in ("c1", "c2", "c3"):
            await found.federation.database.write(
                BY_TEST, lambda c, name=name: client_rows.record_join(c, client(name))
            )
        yield found


def wanted(name: str, **values: object) -> deletion_pb2.UnlearnRequest:
    scope = deletion_pb2.Scope(client=name)
    return deletion_pb2.UnlearnRequest(request_id=f"forget-{name}", scope=scope, **values)


def in_an_hour() -> Timestamp:
    return Timestamp(seconds=int(time.time()) + 3600)


@pytest.mark.parametrize("choice", [{"priority": 1}, {"priority": -1}, {"retain": True}])
async def test_a_client_may_neither_overtake_nor_hold(
    server: Served, choice: dict[str, object]
) -> None:
    stub = DeletionServiceStub(server.dial(Role.CLIENT, "c1"))
    told = await refusal(stub.Unlearn(wanted("c1", **choice), timeout=CALL))
    assert told.reason is Reason.WRONG_ROLE
    accepted = await stub.Unlearn(wanted("c1", not_after=in_an_hour()), timeout=CALL)
    assert accepted.deletion.HasField("not_after")


@pytest.mark.parametrize("priority", [1001, -1001])
async def test_a_priority_out_of_range_is_refused(server: Served, priority: int) -> None:
    stub = DeletionServiceStub(server.dial(*DORA))
    told = await refusal(stub.Unlearn(wanted("c1", priority=priority), timeout=CALL))
    assert told.reason is Reason.INVALID_REQUEST
    assert "priority" in told.message


async def test_what_an_officer_chose_is_told_and_orders_the_queue(server: Served) -> None:
    stub = DeletionServiceStub(server.dial(*DORA))
    await stub.Unlearn(wanted("c1"), timeout=CALL)
    due = in_an_hour()
    asked = wanted("c2", priority=5, not_after=due, retain=True)
    urgent = (await stub.Unlearn(asked, timeout=CALL)).deletion
    assert (urgent.priority, urgent.not_after, urgent.job.retain) == (5, due, True)
    assert not urgent.overdue
    again = (await stub.Unlearn(asked, timeout=CALL)).deletion
    assert again.job.id == urgent.job.id
    first = deletion_pb2.GetDeletionRequest(request_id="forget-c1")
    waits = (await stub.GetDeletion(first, timeout=CALL)).deletion.job.waiting_for
    assert waits == f"waiting for {urgent.job.id}, which goes first"


async def test_a_hold_is_lifted_by_an_officer_and_by_nobody_else(server: Served) -> None:
    officer = DeletionServiceStub(server.dial(*DORA))
    await officer.Unlearn(wanted("c1", retain=True), timeout=CALL)
    request = deletion_pb2.LiftHoldRequest(request_id="forget-c1")
    for role, name in ((Role.CLIENT, "c1"), (Role.OPERATOR, "olga"), (Role.AUDITOR, "ada")):
        stub = DeletionServiceStub(server.dial(role, name))
        assert (await refusal(stub.LiftHold(request, timeout=CALL))).reason is Reason.WRONG_ROLE
    lifted = (await officer.LiftHold(request, timeout=CALL)).deletion
    assert lifted.job.HasField("hold_lifted_at")
    accepted = [row[1] for row in await server.audited() if row[2] == "accepted"]
    held = ["DeletionService.Unlearn", "deletion.held", "DeletionService.LiftHold"]
    assert accepted == held
    await officer.Unlearn(wanted("c2"), timeout=CALL)
    none = deletion_pb2.LiftHoldRequest(request_id="forget-c2")
    assert (await refusal(officer.LiftHold(none, timeout=CALL))).reason is Reason.NO_HOLD


async def test_without_room_new_runs_are_refused_and_deletions_and_status_are_not(
    server: Served, tmp_path: Path
) -> None:
    server.federation.room = Room([tmp_path], needed=1 << 60)
    operator = OperatorServiceStub(server.dial(Role.OPERATOR, "olga"))
    told = await refusal(operator.StartTraining(operator_pb2.StartTrainingRequest(rounds=1)))
    assert told.reason is Reason.NO_SPACE
    assert str(tmp_path) in told.message
    assert told.retry_after
    stub = DeletionServiceStub(server.dial(*DORA))
    await stub.Unlearn(wanted("c1"), timeout=CALL)
    status = await operator.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL)
    assert status.open_deletions == 1
    server.federation.room = Room([tmp_path])
    await operator.StartTraining(operator_pb2.StartTrainingRequest(rounds=1), timeout=CALL)
