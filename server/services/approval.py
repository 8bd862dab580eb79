"""The service of second approval."""

from __future__ import annotations

from typing import Any

from grpc import aio

from fednot.v1 import approval_pb2, approval_pb2_grpc
from server.coordinator import Coordinator
from server.federation import Federation
from server.services import callers
from server.services.messages import approval_message
from server.services.paging import next_token, page_of
from server.state import approval_rows

Context = aio.ServicerContext[Any, Any]


class ApprovalServicer(approval_pb2_grpc.ApprovalServiceServicer):
    """Shows what waits for a second identity, and takes its word."""

    def __init__(self, federation: Federation, coordinator: Coordinator) -> None:
        self._federation = federation
        self._coordinator = coordinator

    async def ListApprovals(
        self, request: approval_pb2.ListApprovalsRequest, context: Context
    ) -> approval_pb2.ListApprovalsResponse:
        """Lists approvals, newest first."""
        before, size = page_of(request.page_size, request.page_token)
        found = await self._federation.database.read(
            lambda c: approval_rows.list_approvals(c, before, size)
        )
        return approval_pb2.ListApprovalsResponse(
            approvals=[approval_message(approval) for _, approval in found],
            next_page_token=next_token(len(found), size, found[-1][0]) if found else "",
        )

    async def Approve(
        self, request: approval_pb2.ApproveRequest, context: Context
    ) -> approval_pb2.ApproveResponse:
        """Approves what another identity asked for."""
        approval = await self._coordinator.approve(request.id, callers.current())
        return approval_pb2.ApproveResponse(approval=approval_message(approval))

    async def Refuse(
        self, request: approval_pb2.RefuseRequest, context: Context
    ) -> approval_pb2.RefuseResponse:
        """Refuses what was asked for."""
        approval = await self._coordinator.refuse(request.id, callers.current())
        return approval_pb2.RefuseResponse(approval=approval_message(approval))
