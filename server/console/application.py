"""The pages of the console, their addresses, and how refusals read."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fednot.errors import CATALOGUE, REMEDY_KEY, Code, FednotError, Reason
from fednot.naming import JOB_ID
from fednot.v1 import audit_pb2, deletion_pb2, operator_pb2, receipt_pb2
from server.console import calls as methods
from server.console.calls import Calls
from server.console.decisions import Decisions
from server.console.deleting import FIELDS, fixed, request_of, what_happens
from server.console.forms import BadFormError, check_proof, posted
from server.console.protocol import MOST_HEADERS, TOO_MUCH
from server.console.readers import COOKIE, Readers, SignInNeeded, check_host
from server.console.rendering import Pages, Reader, static_files
from server.console.sessions import SessionDesk
from server.methods import METHODS
from server.services import permissions
from server.services.scopes import scopes_of

log = logging.getLogger("server.console")

SHOWN: Final = 50
CHARTED: Final = 200
STATUS: Final[Mapping[Code, int]] = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.FAILED_PRECONDITION: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNAVAILABLE: 503,
}
"""How a refusal's code reads in HTTP; any other is 500."""
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
_TOO_MUCH: Final = Response(TOO_MUCH, 431)
_SENT_AGAIN: Final = frozenset({Code.UNAVAILABLE, Code.UNAUTHENTICATED, Code.INTERNAL})
_BY_CALL: Final = "a client asks for its own deletion by `fednot unlearn`; the form is for officers"


class Console:
    """Answers browsers. `application` is for an HTTP server on a loop of its own."""

    def __init__(self, calls: Calls, desk: SessionDesk, *, insecure: bool) -> None:
        self._calls = calls
        self._desk = desk
        self._insecure = insecure
        self._readers = Readers(calls, desk, insecure=insecure)
        self._pages = Pages()
        self._decisions = Decisions(self._ask, self._pages)
        self._static = static_files()

    @property
    def application(self) -> ASGIApp:
        """The ASGI application."""
        read = {
            "/": self._overview,
            "/rounds": self._rounds,
            "/clients": self._clients,
            "/versions": self._versions,
            "/audit": self._audit,
            "/deletions": self._deletions,
            "/deletions/new": self._form,
            "/deletions/{job}": self._deletion,
            "/deletions/{job}/receipt": self._receipt,
            **self._decisions.read,
        }
        act = {
            "/deletions/review": self._review,
            "/deletions": self._unlearn,
            "/sign-out": self._sign_out,
            **self._decisions.act,
        }
        routes = [
            Route("/static/{name}", self._file),
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
            *(Route(path, self._for_reader(page)) for path, page in read.items()),
            *(Route(path, self._for_form(page), methods=["POST"]) for path, page in act.items()),
        ]
        faults: Any = {
            SignInNeeded: self._ask_to_sign_in,
            FednotError: self._refused,
            BadFormError: self._bad_form,
            HTTPException: self._not_here,
            Exception: self._fault,
        }
        return WithHeaders(Starlette(routes=routes, exception_handlers=faults))

    def _for_reader(
        self, page: Callable[[Request, Reader], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            request.state.reader = self._readers.of(request)
            return await page(request, request.state.reader)

        return endpoint

    def _for_form(
        self, page: Callable[[Mapping[str, str], Reader], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            form = await posted(request)
            request.state.reader = reader = self._readers.of(request)
            check_proof(form, reader.proof)
            return await page(form, reader)

        return endpoint

    async def _ask(self, reader: Reader, method: str, request: Message) -> Any:
        return await self._calls.ask(method, request, reader.certificate, reader.connection)

    async def _overview(self, request: Request, reader: Reader) -> Response:
        if not reader.may(methods.GET_STATUS):
            return RedirectResponse("/deletions", 303)
        status = await self._ask(reader, methods.GET_STATUS, operator_pb2.GetStatusRequest())
        wanted = operator_pb2.ListRoundsRequest(page_size=CHARTED)
        rounds = await self._ask(reader, methods.LIST_ROUNDS, wanted)
        return self._pages.html("overview", reader, status=status, rounds=rounds.rounds)

    async def _rounds(self, request: Request, reader: Reader) -> Response:
        wanted = operator_pb2.ListRoundsRequest(page_size=SHOWN, page_token=_token(request))
        found = await self._ask(reader, methods.LIST_ROUNDS, wanted)
        return self._pages.html("rounds", reader, found=found, first=not wanted.page_token)

    async def _clients(self, request: Request, reader: Reader) -> Response:
        found = await self._ask(reader, methods.LIST_CLIENTS, operator_pb2.ListClientsRequest())
        return self._pages.html("clients", reader, found=found)

    async def _versions(self, request: Request, reader: Reader) -> Response:
        wanted = operator_pb2.ListVersionsRequest(page_size=SHOWN, page_token=_token(request))
        found = await self._ask(reader, methods.LIST_VERSIONS, wanted)
        return self._pages.html("versions", reader, found=found)

    async def _audit(self, request: Request, reader: Reader) -> Response:
        wanted = audit_pb2.ListAuditEntriesRequest(
            page_size=SHOWN, page_token=_token(request), newest_first=True
        )
        found = await self._ask(reader, methods.LIST_AUDIT, wanted)
        return self._pages.html("audit", reader, found=found)

    async def _deletions(self, request: Request, reader: Reader) -> Response:
        wanted = deletion_pb2.ListDeletionsRequest(page_size=SHOWN, page_token=_token(request))
        found = await self._ask(reader, methods.LIST_DELETIONS, wanted)
        return self._pages.html("deletions", reader, found=found)

    async def _deletion(self, request: Request, reader: Reader) -> Response:
        wanted = deletion_pb2.GetDeletionRequest(job_id=_job(request))
        found = await self._ask(reader, methods.GET_DELETION, wanted)
        return self._pages.html("deletion", reader, found=found.deletion)

    async def _receipt(self, request: Request, reader: Reader) -> Response:
        job = _job(request)
        found = await self._ask(
            reader, methods.GET_RECEIPT, receipt_pb2.GetReceiptRequest(job_id=job)
        )
        headers = {"content-disposition": f'attachment; filename="{job}.jws"'}
        return Response(f"{found.jws}\n", media_type="application/jose", headers=headers)

    async def _form(self, request: Request, reader: Reader) -> Response:
        _check_decides(reader)
        return await self._form_page(reader, dict(request.query_params))

    async def _form_page(
        self, reader: Reader, given: Mapping[str, str], refusal: FednotError | None = None
    ) -> Response:
        found = await self._ask(reader, methods.LIST_CLIENTS, operator_pb2.ListClientsRequest())
        fields = {name: given.get(name, "") for name in FIELDS}
        status = STATUS.get(CATALOGUE[refusal.reason].code, 500) if refusal else 200
        return self._pages.html(
            "form",
            reader,
            status,
            fields=fields | {"kind": fields["kind"] or "client"},
            clients=found.clients,
            methods=sorted(METHODS),
            refusal=refusal,
        )

    async def _review(self, form: Mapping[str, str], reader: Reader) -> Response:
        _check_decides(reader)
        given = {**form, "request_id": form.get("request_id") or str(uuid.uuid4())}
        try:
            wanted = request_of(given)
            scopes_of(wanted, reader.caller)
        except FednotError as error:
            return await self._form_page(reader, form, error)
        status = await self._ask(reader, methods.GET_STATUS, operator_pb2.GetStatusRequest())
        told = what_happens(wanted, status, needs_approval=self._calls.needs_approval)
        fields = fixed(given, wanted)
        return self._pages.html("review", reader, wanted=wanted, told=told, fields=fields)

    async def _unlearn(self, form: Mapping[str, str], reader: Reader) -> Response:
        _check_decides(reader)
        if not form.get("request_id"):
            raise BadFormError(400, "look at what will happen first, and confirm it there")
        try:
            done = await self._ask(reader, methods.UNLEARN, request_of(form))
        except FednotError as error:
            if _keeps_request(error.reason):
                raise
            return await self._form_page(reader, {**form, "request_id": ""}, error)
        return RedirectResponse(f"/deletions/{done.deletion.job.id}", 303)

    async def _sign_in(self, request: Request) -> Response:
        if self._insecure:
            check_host(request)
            return RedirectResponse("/", 303)
        if request.method != "POST":
            return self._pages.html("sign_in", None, why="")
        code = (await posted(request)).get("code", "").rpartition("#")[2]
        try:
            session = self._desk.trade(code)
        except FednotError as error:
            raise await self._calls.refuse(error, None) from error
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE,
            session.secret,
            max_age=int(session.ends_in),
            path="/",
            secure=True,
            httponly=True,
            samesite="strict",
        )
        return response

    async def _sign_out(self, form: Mapping[str, str], reader: Reader) -> Response:
        self._desk.end(reader.secret)
        response = RedirectResponse("/sign-in", 303)
        response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
        return response

    async def _file(self, request: Request) -> Response:
        found = self._static.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return Response(found[0], media_type=found[1])

    async def _ask_to_sign_in(self, request: Request, error: Exception) -> Response:
        return self._pages.html("sign_in", None, 401, why=str(error))

    async def _refused(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, FednotError):
            raise error
        entry = CATALOGUE[error.reason]
        remedy = error.metadata.get(REMEDY_KEY) or entry.remedy
        response = self._problem(request, STATUS.get(entry.code, 500), error.message, remedy)
        if error.retry_after is not None:
            response.headers["retry-after"] = str(max(1, round(error.retry_after)))
        return response

    async def _bad_form(self, request: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, BadFormError) else 400
        return self._problem(request, status, str(error))

    async def _not_here(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        sentence = "there is no such page" if status == 404 else "a page is not asked for that way"
        return self._problem(request, status, sentence)

    async def _fault(self, request: Request, error: Exception) -> Response:
        return self._problem(request, 500, CATALOGUE[Reason.INTERNAL].remedy)

    def _problem(self, request: Request, status: int, sentence: str, remedy: str = "") -> Response:
        reader = getattr(request.state, "reader", None)
        return self._pages.html("problem", reader, status, sentence=sentence, remedy=remedy)


class WithHeaders:
    """Gives every answer the headers that tell a browser what it must not do with it, and refuses
    requests whose own headers have more than MOST_HEADERS bytes.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""

        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        size = sum(len(name) + len(value) for name, value in scope["headers"])
        answer = self._application if size <= MOST_HEADERS else _TOO_MUCH
        await answer(scope, receive, marked)


def _check_decides(reader: Reader) -> None:
    """Raises FednotError (WRONG_ROLE) unless the reader has the form."""
    permissions.check(methods.UNLEARN, reader.caller)
    if not reader.decides:
        raise FednotError(Reason.WRONG_ROLE, _BY_CALL)


def _keeps_request(reason: Reason) -> bool:
    """Whether the same request is to be sent again, since it may have been taken, or nobody was
    known to ask: a form anew would be another one.
    """
    return reason is Reason.SERVER_BUSY or CATALOGUE[reason].code in _SENT_AGAIN


def _token(request: Request) -> str:
    return request.query_params.get("after", "")[:64]


def _job(request: Request) -> str:
    job: str = request.path_params["job"]
    if not JOB_ID.fullmatch(job):
        raise HTTPException(404)
    return job
