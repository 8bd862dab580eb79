"""The service of deletion."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator
from typing import Any, Final

from grpc import aio

from fednot import calls
from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.naming import JOB_ID, REQUEST_ID
from fednot.v1 import deletion_pb2, deletion_pb2_grpc
from server.coordinator import Coordinator
from server.federation import Federation
from server.phases import ENDED
from server.records import Deletion, DeletionAsk
from server.refusals import about
from server.services import callers
from server.services.messages import (
    deletion_message,
    hide_others,
    progress_message,
    waiting_sentence,
)
from server.services.paging import next_token, page_of
from server.services.policies import recovery_policy
from server.services.scopes import assurance_of, first_client, scopes_of
from server.state import deletion_rows, job_rows, scope_rows

WATCH_TICK: Final = 15.0
RETRY_AFTER: Final = 1.0
MOST_PRIORITY: Final = 1000

Context = aio.ServicerContext[Any, Any]


class DeletionServicer(deletion_pb2_grpc.DeletionServiceServicer):
    """Takes deletion requests and shows how their jobs stand."""

    def __init__(self, federation: Federation, coordinator: Coordinator) -> None:
        self._federation = federation
        self._coordinator = coordinator

    async def Unlearn(
        self, request: deletion_pb2.UnlearnRequest, context: Context
    ) -> deletion_pb2.UnlearnResponse:
        """Accepts a deletion; its scope is fenced when this returns."""
        with about(first_client(request)):
            deletion = await self._coordinator.accept(self._ask(request))
        return deletion_pb2.UnlearnResponse(deletion=await self._message(deletion))

    async def GetDeletion(
        self, request: deletion_pb2.GetDeletionRequest, context: Context
    ) -> deletion_pb2.GetDeletionResponse:
        """Reads one deletion."""
        deletion = await self._find(request)
        return deletion_pb2.GetDeletionResponse(deletion=await self._message(deletion))

    async def ListDeletions(
        self, request: deletion_pb2.ListDeletionsRequest, context: Context
    ) -> deletion_pb2.ListDeletionsResponse:
        """Lists deletions, newest first."""
        before, size = page_of(request.page_size, request.page_token)
        caller = callers.current()
        found = await self._federation.database.read(
            lambda c: deletion_rows.list_deletions(c, before, size, caller)
        )
        first = await self._first_ready()
        return deletion_pb2.ListDeletionsResponse(
            deletions=[self._shown(deletion, first) for _, deletion in found],
            next_page_token=next_token(len(found), size, found[-1][0]) if found else "",
        )

    async def WatchDeletion(
        self, request: deletion_pb2.WatchDeletionRequest, context: Context
    ) -> AsyncIterator[deletion_pb2.WatchDeletionResponse]:
        """Streams the deletion after each change until its job has ended."""
        last = None
        while True:
            mark = self._federation.changes.mark()
            deletion = await self._find(request)
            response = deletion_pb2.WatchDeletionResponse(
                deletion=await self._message(deletion),
                round=self._round(),
            )
            if response != last:
                yield response
                last = response
            if deletion.job.phase in ENDED:
                return
            if self._federation.activity.stopping:
                raise FednotError(
                    Reason.SHUTTING_DOWN, "the server is stopping", retry_after=RETRY_AFTER
                )
            await self._federation.changes.wait(WATCH_TICK, mark)

    async def CancelDeletion(
        self, request: deletion_pb2.CancelDeletionRequest, context: Context
    ) -> deletion_pb2.CancelDeletionResponse:
        """Cancels a deletion that waits."""
        deletion = await self._coordinator.cancel(request.request_id, callers.current())
        return deletion_pb2.CancelDeletionResponse(deletion=await self._message(deletion))

    async def LiftHold(
        self, request: deletion_pb2.LiftHoldRequest, context: Context
    ) -> deletion_pb2.LiftHoldResponse:
        """Lifts a legal hold, and destroys what was kept for it."""
        deletion = await self._coordinator.lift_hold(request.request_id, callers.current())
        return deletion_pb2.LiftHoldResponse(deletion=await self._message(deletion))

    def _ask(self, request: deletion_pb2.UnlearnRequest) -> DeletionAsk:
        caller = callers.current()
        scopes = scopes_of(request, caller)
        _check_request_id(request.request_id)
        _check_officers_choices(request)
        payload = deletion_pb2.UnlearnRequest()
        payload.CopyFrom(request)
        payload.ClearField("request_id")
        return DeletionAsk(
            caller=caller,
            request_id=request.request_id or str(uuid.uuid4()),
            client=scope_rows.first_client(scopes),
            method=request.method,
            layers=request.layers,
            allow_unsafe_layers=request.allow_unsafe_layers,
            policy=recovery_policy(request.recovery, self._federation.defaults.recovery),
            digest=hashlib.sha256(payload.SerializeToString(deterministic=True)).hexdigest(),
            priority=request.priority,
            not_after=_moment(request),
            retain=request.retain,
            scopes=scopes,
            assurance=assurance_of(request),
            origin=calls.current(),
        )

    async def _find(
        self, request: deletion_pb2.GetDeletionRequest | deletion_pb2.WatchDeletionRequest
    ) -> Deletion:
        caller = callers.current()
        if request.WhichOneof("key") == "job_id":
            job_id = request.job_id
            return await self._federation.database.read(
                lambda c: deletion_rows.get_deletion_of_job(c, job_id, caller)
            )
        request_id = request.request_id
        return await self._federation.database.read(
            lambda c: deletion_rows.get_deletion(c, request_id, caller)
        )

    async def _message(self, deletion: Deletion) -> deletion_pb2.Deletion:
        return self._shown(deletion, await self._first_ready())

    async def _first_ready(self) -> str:
        return await self._federation.database.read(job_rows.first_ready_id)

    def _shown(self, deletion: Deletion, first_ready: str) -> deletion_pb2.Deletion:
        waiting_for = self._federation.activity.waiting_for
        own = callers.current().name if _is_client() else None
        waiting = waiting_sentence(
            deletion,
            first_ready,
            waiting_for,
            confirmation_wait=self._federation.defaults.confirmation_wait,
            reader=own,
        )
        message = deletion_message(deletion, waiting)
        return message if own is None else hide_others(message, own)

    def _round(self) -> deletion_pb2.RoundProgress | None:
        message = progress_message(self._federation.activity.progress)
        if message is not None and _is_client():
            message.ClearField("missing")
        return message


def _check_request_id(request_id: str) -> None:
    if request_id and not REQUEST_ID.fullmatch(request_id):
        raise FednotError(
            Reason.INVALID_REQUEST,
            "request_id: must be 1 to 128 printable ASCII characters without spaces",
        )
    if JOB_ID.fullmatch(request_id):
        raise FednotError(
            Reason.INVALID_REQUEST,
            f"request_id: must not look like the id of a job, as {request_id} does",
        )


def _check_officers_choices(request: deletion_pb2.UnlearnRequest) -> None:
    if abs(request.priority) > MOST_PRIORITY:
        raise FednotError(
            Reason.INVALID_REQUEST, f"priority: must be from -{MOST_PRIORITY} to {MOST_PRIORITY}"
        )
    if _is_client() and (request.priority or request.retain):
        raise FednotError(
            Reason.WRONG_ROLE, "priority and retain are for an officer to give, not for a client"
        )


def _moment(request: deletion_pb2.UnlearnRequest) -> float | None:
    if not request.HasField("not_after"):
        return None
    return request.not_after.ToMicroseconds() / 1e6


def _is_client() -> bool:
    return callers.current().role is Role.CLIENT
