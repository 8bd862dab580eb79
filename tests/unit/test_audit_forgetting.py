"""A name that an officer has unlinked stays away, in the server as it is put together."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select
from support.served import CALL, Served, refusal, served

from fednot.errors import Reason
from fednot.identity.subject import Role
from fednot.v1 import audit_pb2, audit_pb2_grpc, operator_pb2, operator_pb2_grpc
from server.state import schema


async def names_in(server: Served) -> set[str]:
    rows = await server.federation.database.read(
        lambda c: c.execute(select(schema.pseudonyms.c.name)).all()
    )
    return {row.name for row in rows}


async def test_refusals_counted_before_a_name_was_forgotten_do_not_bring_it_back(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as server:
        client = operator_pb2_grpc.OperatorServiceStub(server.dial(Role.CLIENT, "c1"))
        for _ in range(3):
            call = client.StopTraining(operator_pb2.StopTrainingRequest(), timeout=CALL)
            assert (await refusal(call)).reason is Reason.WRONG_ROLE
        audit = audit_pb2_grpc.AuditServiceStub(server.dial(Role.OFFICER, "dora"))
        request = audit_pb2.DestroyPseudonymRequest(name="client/c1")
        await audit.DestroyPseudonym(request, timeout=CALL)

        entries = await server.audited()

        assert [entry[1] for entry in entries][1:] == [
            "OperatorService.StopTraining",
            "AuditService.DestroyPseudonym",
        ]
        assert await names_in(server) == {"officer/dora"}
        unknown = await refusal(audit.DestroyPseudonym(request, timeout=CALL))
        assert unknown.reason is Reason.UNKNOWN_NAME
