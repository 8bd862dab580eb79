"""Stands before every servicer: finds out who calls, whether they may, and what became of it.

The order is: who (the certificate of the connection, judged anew for each call, for each message of
a stream and before each answer, since a connection and a long call outlive the rotation, expiry and
revocation of its certificate), then the role, then the servicer. Every error leaves through the one
translator and is counted; one that refused a right or a request is noted in the audit.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn, Protocol

import grpc
from grpc import aio
from grpc_status import rpc_status

from fednot import chunk_messages
from fednot.errors import FednotError, Reason
from fednot.rpc_errors import to_status
from server.metrics import Metrics
from server.records import Caller
from server.refusals import CLIENT_KEY, JOB_KEY
from server.services import callers
from server.services.permissions import check, method_name

log = logging.getLogger("server.services")

COURSE_OF_THINGS: Final = frozenset(
    {
        Reason.ROUND_OVER,
        Reason.UNKNOWN_SESSION,
        Reason.UNKNOWN_WORK,
        Reason.DUPLICATE_UPDATE,
        Reason.STALE_GENERATION,
        Reason.WRONG_BASE_VERSION,
        Reason.SLOW_SENDER,
        Reason.UPLOAD_REPLACED,
        Reason.SERVER_BUSY,
        Reason.SHUTTING_DOWN,
        Reason.INTERNAL,
    }
)
"""What the audit leaves out: clients that lost a race against a round or a restart, a slow link, a
busy or stopping server, a fault of the server itself. Nobody was denied anything; counters tell."""

ASK_AGAIN_AFTER: Final = 0.2

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]
Context = aio.ServicerContext[Any, Any]
Serve = Callable[[Any, Context], Any]


class CallerSource(Protocol):
    """Knows callers by their certificates; `server.identity.ServerIdentity` is one."""

    def caller_of(self, pem: bytes) -> Caller:
        """Who calls. Raises FednotError for a certificate that does not hold now."""
        ...

    def holder_of(self, pem: bytes) -> Caller:
        """Whom a certificate names, valid or not; nobody unless a trusted authority issued it."""
        ...


class Refusals(Protocol):
    """Keeps what was refused; `server.audit.RefusalLog` does."""

    async def note(
        self, caller: Caller, action: str, reason: Reason, subject: str = "", job_id: str = ""
    ) -> None:
        """Notes one refusal."""
        ...


class Guard(aio.ServerInterceptor):
    """Guards one listener.

    `identities` is None where no certificates are shown: over plaintext and on the enrolment
    listener. `may` raises FednotError if a caller may not call a method there. Translates
    FednotError to google.rpc.Status; any other exception becomes INTERNAL, and its text stays in
    the log and does not leave the server.
    """

    def __init__(
        self,
        metrics: Metrics,
        identities: CallerSource | None = None,
        refusals: Refusals | None = None,
        may: Callable[[str, Caller], None] = check,
    ) -> None:
        self._metrics = metrics
        self._identities = identities
        self._refusals = refusals
        self._may = may

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wraps the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        behaviour, make = _KINDS[handler.request_streaming, handler.response_streaming]
        serve = getattr(handler, behaviour)
        if handler.request_streaming:
            serve = self._watching(serve)
        wrap = self._streaming if handler.response_streaming else self._unary
        method = handler_call_details.method
        read = _READERS.get(method, handler.request_deserializer)
        write = _WRITERS.get(method, handler.response_serializer)
        return make(wrap(method, serve), read, write)

    def _watching(self, serve: Serve) -> Serve:
        return lambda requests, context: serve(_Watched(requests, self._caller, context), context)

    def _unary(self, method: str, serve: Serve) -> Serve:
        async def call(request: Any, context: Context) -> Any:
            try:
                self._admit(method, context)
                response = await serve(request, context)
                self._judge_again(context)
            except Exception as error:
                await self._abort(method, error, context)
            return response

        return call

    def _streaming(self, method: str, serve: Serve) -> Serve:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                self._admit(method, context)
                responses = serve(request, context)
                if inspect.isawaitable(responses):  # it writes to the context by itself
                    await responses
                    return
                async with aclosing(responses):
                    async for response in responses:
                        self._caller(context)
                        yield response
            except Exception as error:
                await self._abort(method, error, context)

        return call

    def _admit(self, method: str, context: Context) -> None:
        caller = self._caller(context)
        self._may(method, caller)
        callers.begin(caller, _certificate(context))

    def _judge_again(self, context: Context) -> None:
        """A caller that has a newer certificate by now may ask again; any other is refused then."""
        try:
            self._caller(context)
        except FednotError as error:
            raise FednotError(
                Reason.SERVER_BUSY,
                f"while the call was served: {error.message}; send it again",
                retry_after=ASK_AGAIN_AFTER,
            ) from error

    def _caller(self, context: Context) -> Caller:
        if self._identities is None:
            return callers.NOBODY
        pem = _certificate(context)
        if pem is None:
            raise FednotError(Reason.NO_CERTIFICATE, "the call shows no certificate")
        return self._identities.caller_of(pem)

    async def _abort(self, method: str, error: Exception, context: Context) -> NoReturn:
        if isinstance(error, aio.AbortError):
            raise error
        if isinstance(error, asyncio.InvalidStateError) and context.done():
            raise error
        if isinstance(error, NotImplementedError):  # a call that gRPC's own servicers leave out
            told = f"{method_name(method)} is not implemented here"
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, told)
        if not isinstance(error, FednotError):
            log.exception("a call failed", exc_info=error)
            error = FednotError(Reason.INTERNAL, "the server met an unexpected fault")
        self._metrics.refusals.labels(error.reason).inc()
        await self._note(method, error, context)
        status = rpc_status.to_status(to_status(error))
        context.set_trailing_metadata(status.trailing_metadata)
        await context.abort(status.code, status.details)

    async def _note(self, method: str, error: FednotError, context: Context) -> None:
        if self._refusals is None or error.reason in COURSE_OF_THINGS:
            return
        pem = _certificate(context) if self._identities else None
        caller = self._identities.holder_of(pem) if self._identities and pem else callers.NOBODY
        client = error.metadata.get(CLIENT_KEY, "")
        subject = f"client/{client}" if client else ""
        job_id = error.metadata.get(JOB_KEY, "")
        try:
            await self._refusals.note(caller, method_name(method), error.reason, subject, job_id)
        except Exception:
            log.exception("a refusal could not be noted in the audit")


class _Watched:
    """The messages of a caller, each taken only while the caller's certificate holds."""

    def __init__(
        self,
        messages: AsyncIterator[Any],
        judge: Callable[[Context], Caller],
        context: Context,
    ) -> None:
        self._messages = messages
        self._judge = judge
        self._context = context

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await anext(self._messages)
        self._judge(self._context)
        return message


_READERS: Final = {chunk_messages.UPLOAD: chunk_messages.upload_part}
_WRITERS: Final = {chunk_messages.DOWNLOAD: chunk_messages.download_bytes}
"""In place of protobuf's own, which copy every chunk twice."""

_KINDS: Final = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def _certificate(context: Context) -> bytes | None:
    return next(iter(context.auth_context().get("x509_pem_cert", ())), None)
