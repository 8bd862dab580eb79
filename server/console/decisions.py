"""Pages on which an officer decides: approvals, the end of a waiting deletion, and of a hold.

Each says first what will happen, and nothing has happened until its button is pressed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fednot.errors import FednotError, Reason
from fednot.v1 import approval_pb2, deletion_pb2
from server.console import calls as methods
from server.console.rendering import Pages, Reader
from server.services import permissions

SHOWN: Final = 50
FOUND_AMONG: Final = 1000
_BARRED_NO_MORE: Final = (
    "The deletion is cancelled and nothing is forgotten. What it barred takes part in rounds "
    "again, unless another deletion bars it too."
)

Ask = Callable[[Reader, str, Message], Awaitable[Any]]
Read = Callable[[Request, Reader], Awaitable[Response]]
Act = Callable[[Mapping[str, str], Reader], Awaitable[Response]]


@dataclass(frozen=True)
class Choice:
    """A button: the path that it posts to, its words, and what it makes happen."""

    path: str
    word: str
    happens: str
    dangerous: bool = False


class Decisions:
    """The pages of approvals, and of what an officer may do to a deletion."""

    def __init__(self, ask: Ask, pages: Pages) -> None:
        self._ask = ask
        self._pages = pages
        self.read: Final[Mapping[str, Read]] = {
            "/approvals": self._approvals,
            "/approvals/{id}": self._approval,
            "/deletions/{job}/cancel": self._review_cancel,
            "/deletions/{job}/lift-hold": self._review_lift,
        }
        self.act: Final[Mapping[str, Act]] = {
            "/approvals/approve": self._approve,
            "/approvals/refuse": self._refuse,
            "/deletions/cancel": self._cancel,
            "/deletions/lift-hold": self._lift,
        }

    async def _approvals(self, request: Request, reader: Reader) -> Response:
        token = request.query_params.get("after", "")[:64]
        wanted = approval_pb2.ListApprovalsRequest(page_size=SHOWN, page_token=token)
        found = await self._ask(reader, methods.LIST_APPROVALS, wanted)
        return self._pages.html("approvals", reader, found=found, first=not token)

    async def _approval(self, request: Request, reader: Reader) -> Response:
        found = await self._find(reader, request.path_params["id"])
        deletion = await self._deletion(reader, found.job_id) if found.job_id else None
        waits = found.state == approval_pb2.APPROVAL_STATE_WAITING
        choices = _choices(found) if waits and reader.may(methods.APPROVE) else []
        own = bool(choices) and reader.caller.name == found.requested_by.name
        return self._pages.html(
            "approval", reader, approval=found, deletion=deletion, choices=choices, own=own
        )

    async def _find(self, reader: Reader, name: str) -> approval_pb2.Approval:
        wanted = approval_pb2.ListApprovalsRequest(page_size=FOUND_AMONG)
        found = await self._ask(reader, methods.LIST_APPROVALS, wanted)
        for each in found.approvals:
            if each.id == name:
                return each  # type: ignore[no-any-return]
        raise FednotError(
            Reason.UNKNOWN_APPROVAL,
            f"there is no approval {name} among the newest {FOUND_AMONG}",
        )

    async def _deletion(self, reader: Reader, job: str) -> deletion_pb2.Deletion:
        wanted = deletion_pb2.GetDeletionRequest(job_id=job)
        return (await self._ask(reader, methods.GET_DELETION, wanted)).deletion  # type: ignore[no-any-return]

    async def _review_cancel(self, request: Request, reader: Reader) -> Response:
        word = "Confirm: cancel the deletion"
        choice = Choice("/deletions/cancel", word, _BARRED_NO_MORE, dangerous=True)
        return await self._review(request, reader, methods.CANCEL, "Cancel", choice)

    async def _review_lift(self, request: Request, reader: Reader) -> Response:
        happens = "The older versions that the job kept for the hold are destroyed for good."
        choice = Choice("/deletions/lift-hold", "Confirm: lift the hold", happens, dangerous=True)
        verb = "Lift the hold of"
        return await self._review(request, reader, methods.LIFT_HOLD, verb, choice)

    async def _review(
        self, request: Request, reader: Reader, method: str, verb: str, choice: Choice
    ) -> Response:
        permissions.check(method, reader.caller)
        found = await self._deletion(reader, request.path_params["job"])
        return self._pages.html("decision", reader, found=found, verb=verb, choice=choice)

    async def _approve(self, form: Mapping[str, str], reader: Reader) -> Response:
        wanted = approval_pb2.ApproveRequest(id=form.get("id", ""))
        return _decided((await self._ask(reader, methods.APPROVE, wanted)).approval)

    async def _refuse(self, form: Mapping[str, str], reader: Reader) -> Response:
        wanted = approval_pb2.RefuseRequest(id=form.get("id", ""))
        return _decided((await self._ask(reader, methods.REFUSE, wanted)).approval)

    async def _cancel(self, form: Mapping[str, str], reader: Reader) -> Response:
        wanted = deletion_pb2.CancelDeletionRequest(request_id=form.get("id", ""))
        return _changed((await self._ask(reader, methods.CANCEL, wanted)).deletion)

    async def _lift(self, form: Mapping[str, str], reader: Reader) -> Response:
        wanted = deletion_pb2.LiftHoldRequest(request_id=form.get("id", ""))
        return _changed((await self._ask(reader, methods.LIFT_HOLD, wanted)).deletion)


def _choices(found: approval_pb2.Approval) -> list[Choice]:
    if found.kind == approval_pb2.APPROVAL_KIND_DELETION:
        approved = (
            "The deletion goes on: its job begins as soon as clients have barred what they must "
            "and those before it are done. At its end older versions are destroyed for good."
        )
        refused = _BARRED_NO_MORE
    else:
        approved = f"Client {found.client} takes part in rounds again, with all its samples."
        refused = f"Client {found.client} stays barred."
    return [
        Choice("/approvals/approve", f"Approve the {_KINDS[found.kind]}", approved),
        Choice("/approvals/refuse", f"Refuse the {_KINDS[found.kind]}", refused, dangerous=True),
    ]


_KINDS: Final[Mapping[int, str]] = {
    approval_pb2.APPROVAL_KIND_DELETION: "deletion",
    approval_pb2.APPROVAL_KIND_READMISSION: "readmission",
}


def _decided(approval: approval_pb2.Approval) -> Response:
    return RedirectResponse(f"/approvals/{approval.id}", 303)


def _changed(deletion: deletion_pb2.Deletion) -> Response:
    return RedirectResponse(f"/deletions/{deletion.job.id}", 303)
