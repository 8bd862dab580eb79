"""Stands before every servicer: finds out who calls, whether they may, and what became of it.

The order is: who (the certificate of the connection, judged anew for each call, for each message of
a stream and before each answer, since a connection and a long call outlive the rotation, expiry and
revocation of its certificate), then the role, then the servicer. Every error leaves through the one
translator and is counted; one that refused a right or a request is noted in the audit.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Final, NoReturn

import grpc
from grpc import aio
from grpc_status import rpc_status

from fednot import calls, chunk_messages, tracing
from fednot.errors import FednotError, Reason
from fednot.rpc_errors import to_status
from server.limits.callers import CallerLimits
from server.limits.messages import MessageSizes, Oversized
from server.metrics import Metrics
from server.records import Caller
from server.services import callers
from server.services.door import CallerSource, Door, Refusals
from server.services.handlers import KINDS, Context, Continuation, Serve, overheard
from server.services.permissions import check, method_name

MOST_METADATA: Final = 16 << 10
"""gRPC itself keeps to it only once the caller has agreed to it, which a hostile one never does."""

BEGIN_TRACES: Final = frozenset({"DeletionService.Unlearn", "OperatorService.StartTraining"})
"""What begins a trace if the caller has none; other calls are in the caller's or in none."""


class Guard(aio.ServerInterceptor):
    """Guards one gRPC listener with a door of its own; what a call failed with leaves as a
    google.rpc.Status.
    """

    def __init__(
        self,
        metrics: Metrics,
        identities: CallerSource | None = None,
        refusals: Refusals | None = None,
        may: Callable[[str, Caller], None] = check,
        limits: CallerLimits | None = None,
        sizes: MessageSizes | None = None,
    ) -> None:
        self._door = Door(metrics, identities, refusals, may, limits)
        self._sizes = sizes

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wraps the handler of a call."""
        if _size(handler_call_details.invocation_metadata) > MOST_METADATA:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(handler_call_details.method, _refuse_metadata, calls.Origin())
            )
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        behaviour, make = KINDS[handler.request_streaming, handler.response_streaming]
        serve = getattr(handler, behaviour)
        if handler.request_streaming:
            serve = self._watching(serve)
        wrap = self._streaming if handler.response_streaming else self._unary
        method = handler_call_details.method
        read = _READERS.get(method, handler.request_deserializer)
        if self._sizes is not None:
            read = self._sizes.reader(method, read)
        write = _WRITERS.get(method, handler.response_serializer)
        origin = calls.of_metadata(handler_call_details.invocation_metadata)
        return make(wrap(method, serve, origin), read, write)

    def _watching(self, serve: Serve) -> Serve:
        def watched(requests: AsyncIterator[Any], context: Context) -> Any:
            judge = self._judge_of(context)
            return serve(_Watched(requests, judge), context)

        return watched

    def _unary(self, method: str, serve: Serve, origin: calls.Origin) -> Serve:
        async def call(request: Any, context: Context) -> Any:
            span = _begun(method, origin, context)
            try:
                with self._admitted(method, context):
                    response = await serve(_parsed(request), context)
                    self._door.judge_again(_certificate(context))
            except Exception as error:
                span.fail(error)
                aborting = self._abort(method, error, context)
            else:
                return response
            finally:
                span.end()
            await _read_no_further(request)
            del request, context
            return await aborting

        return call

    def _streaming(self, method: str, serve: Serve, origin: calls.Origin) -> Serve:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            span = _begun(method, origin, context)
            try:
                with self._admitted(method, context):
                    judge = self._judge_of(context)
                    responses = serve(_parsed(request), overheard(context, judge))
                    if inspect.isawaitable(responses):  # it writes to the context by itself
                        await responses
                        return
                    async with aclosing(responses):
                        async for response in responses:
                            judge()
                            yield response
            except Exception as error:
                span.fail(error)
                aborting = self._abort(method, error, context)
            else:
                return
            finally:
                span.end()
            await _read_no_further(request)
            del request, context
            await aborting

        return call

    @contextmanager
    def _admitted(self, method: str, context: Context) -> Iterator[None]:
        pem = _certificate(context)
        with self._door.admitted(method, pem, context.peer()) as caller:
            callers.begin(caller, pem)
            yield

    def _judge_of(self, context: Context) -> Callable[[], object]:
        """Judges the certificate of a call anew; to ask gRPC for it costs more than that."""
        pem = _certificate(context)
        return lambda: self._door.caller(pem)

    async def _abort(self, method: str, error: Exception, context: Context) -> NoReturn:
        """Ends a call.

        gRPC keeps its AbortError with the call, and the error keeps every frame that it passed: one
        that held the context would keep the call, and its place among those of its connection,
        until the garbage collector comes by. So each lets go of the context before.
        """
        if isinstance(error, aio.AbortError):
            raise error
        if isinstance(error, asyncio.InvalidStateError) and context.done():
            raise error
        if isinstance(error, NotImplementedError):  # a call that gRPC's own servicers leave out
            told = f"{method_name(method)} is not implemented here"
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, told)
        told_why = await self._door.refused(method, error, _certificate(context))
        call_id = calls.current().call_id
        status = rpc_status.to_status(to_status(told_why, call_id))
        context.set_trailing_metadata((*status.trailing_metadata, (calls.CALL_ID_KEY, call_id)))
        aborting = context.abort(status.code, status.details)
        del context, error, told_why
        await aborting


def _begun(method: str, origin: calls.Origin, context: Context) -> tracing.Served:
    """Binds a call's id, which it is told in any case, and begins the span of a traced call."""
    call_id = origin.call_id or calls.new_id()
    calls.begin(calls.Origin(call_id, origin.traceparent))
    context.set_trailing_metadata(((calls.CALL_ID_KEY, call_id),))
    return tracing.Served(method.strip("/"), root=method_name(method) in BEGIN_TRACES)


async def _read_no_further(request: Any) -> None:
    """Ends the iterator of a caller's messages, which holds on to its call as long as it is."""
    if isinstance(request, AsyncIterator):
        with suppress(RuntimeError):  # it is being read just now, or has ended
            iterator: Any = aiter(request)
            await iterator.aclose()


async def _refuse_metadata(requests: AsyncIterator[Any], context: Context) -> None:
    raise FednotError(
        Reason.INVALID_REQUEST, f"the call's metadata have more than {MOST_METADATA} bytes"
    )


def _size(metadata: Any) -> int:
    """As HTTP/2 counts it: 32 bytes for each field beside its name and value."""
    fields = metadata or ()
    if 32 * len(fields) > MOST_METADATA:
        return 32 * len(fields)
    return sum(len(name) + len(value) + 32 for name, value in fields)


class _Watched:
    """The messages of a caller, each taken only while the caller's certificate holds."""

    def __init__(
        self,
        messages: AsyncIterator[Any],
        judge: Callable[[], object],
    ) -> None:
        self._messages = messages
        self._judge = judge

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await anext(self._messages)
        self._judge()
        return _parsed(message)


_READERS: Final = {chunk_messages.UPLOAD: chunk_messages.upload_part}
_WRITERS: Final = {chunk_messages.DOWNLOAD: chunk_messages.download_bytes}
"""In place of protobuf's own, which copy every chunk twice."""


def _parsed(message: Any) -> Any:
    """The message. Raises FednotError for one that was too large to be parsed."""
    if isinstance(message, Oversized):
        raise message.error
    return message


def _certificate(context: Context) -> bytes | None:
    return next(iter(context.auth_context().get("x509_pem_cert", ())), None)
