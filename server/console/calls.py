"""What the console's pages ask: the servicers of the calls themselves, through the same door."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from fednot.errors import FednotError, Reason
from server.audit import RefusalLog
from server.cohorts.remote import RemoteCohort
from server.coordinator import Coordinator
from server.federation import Federation
from server.identity import ServerIdentity
from server.limits.callers import CallerLimits
from server.records import Caller
from server.services import callers
from server.services.approval import ApprovalServicer
from server.services.audit import AuditServicer
from server.services.deletion import DeletionServicer
from server.services.door import Door
from server.services.operator import OperatorServicer
from server.services.receipts import ReceiptServicer

UNLEARN: Final = "/fednot.v1.DeletionService/Unlearn"
GET_DELETION: Final = "/fednot.v1.DeletionService/GetDeletion"
LIST_DELETIONS: Final = "/fednot.v1.DeletionService/ListDeletions"
CANCEL: Final = "/fednot.v1.DeletionService/CancelDeletion"
LIFT_HOLD: Final = "/fednot.v1.DeletionService/LiftHold"
LIST_APPROVALS: Final = "/fednot.v1.ApprovalService/ListApprovals"
APPROVE: Final = "/fednot.v1.ApprovalService/Approve"
REFUSE: Final = "/fednot.v1.ApprovalService/Refuse"
GET_STATUS: Final = "/fednot.v1.OperatorService/GetStatus"
LIST_CLIENTS: Final = "/fednot.v1.OperatorService/ListClients"
LIST_ROUNDS: Final = "/fednot.v1.OperatorService/ListRounds"
LIST_VERSIONS: Final = "/fednot.v1.OperatorService/ListVersions"
GET_RECEIPT: Final = "/fednot.v1.ReceiptService/GetReceipt"
LIST_AUDIT: Final = "/fednot.v1.AuditService/ListAuditEntries"
SIGN_IN: Final = "/fednot.v1.Console/SignIn"
"""How the audit calls a sign-in that was refused; no call of gRPC has the name."""

ANSWER_SECONDS: Final = 20.0
RETRY_AFTER: Final = 2.0

Servicer = Callable[[Any, Any], Awaitable[Any]]
T = TypeVar("T")


class Calls:
    """Makes calls for browsers. Made on the server's loop; `ask` and `refuse` are for another one.

    Each call runs on the server's loop, as one that came by gRPC does: role, limits, audit and the
    counting of refusals are those of the door.
    """

    def __init__(
        self,
        federation: Federation,
        coordinator: Coordinator,
        cohort: RemoteCohort,
        identity: ServerIdentity | None,
        refusals: RefusalLog,
        limits: CallerLimits,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._door = Door(federation.metrics, identity, refusals, limits=limits)
        self.needs_approval: Final = federation.defaults.require_approval
        deletions = DeletionServicer(federation, coordinator)
        approvals = ApprovalServicer(federation, coordinator)
        operator = OperatorServicer(federation, coordinator, cohort)
        self._servicers: Mapping[str, Servicer] = {
            UNLEARN: deletions.Unlearn,
            GET_DELETION: deletions.GetDeletion,
            LIST_DELETIONS: deletions.ListDeletions,
            CANCEL: deletions.CancelDeletion,
            LIFT_HOLD: deletions.LiftHold,
            LIST_APPROVALS: approvals.ListApprovals,
            APPROVE: approvals.Approve,
            REFUSE: approvals.Refuse,
            GET_STATUS: operator.GetStatus,
            LIST_CLIENTS: operator.ListClients,
            LIST_ROUNDS: operator.ListRounds,
            LIST_VERSIONS: operator.ListVersions,
            GET_RECEIPT: ReceiptServicer(federation).GetReceipt,
            LIST_AUDIT: AuditServicer(federation, refusals).ListAuditEntries,
        }

    def caller(self, pem: bytes | None) -> Caller:
        """Who shows a certificate at this moment. Raises FednotError if it does not hold."""
        return self._door.caller(pem)

    async def ask(self, method: str, request: Message, pem: bytes | None, connection: str) -> Any:
        """The answer of a call. Raises FednotError as the call does over gRPC."""
        return await self._there(self._call(method, request, pem, connection))

    async def refuse(self, error: FednotError, pem: bytes | None) -> FednotError:
        """Counts and notes a sign-in that was refused, and gives back what it is told."""
        return await self._there(self._door.refused(SIGN_IN, error, pem))

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            running = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise FednotError(
                Reason.SHUTTING_DOWN, "the server has stopped", retry_after=RETRY_AFTER
            ) from None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.wrap_future(running)
        except TimeoutError:
            raise FednotError(
                Reason.SERVER_BUSY,
                f"the server did not answer in {ANSWER_SECONDS:.0f} s",
                retry_after=RETRY_AFTER,
            ) from None

    async def _call(self, method: str, request: Message, pem: bytes | None, connection: str) -> Any:
        try:
            with self._door.admitted(method, pem, connection) as caller:
                callers.begin(caller, pem)
                response = await self._servicers[method](request, None)
                self._door.judge_again(pem)
        except Exception as error:
            raise await self._door.refused(method, error, pem) from error
        return response
