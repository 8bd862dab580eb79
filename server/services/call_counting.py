"""Stands before the guard and counts every call, under the names of go-grpc-prometheus.

py-grpc-prometheus, which has the same names, wraps threaded servers only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor
from grpc import aio

from server.metrics.calls import CallMetrics, MethodMetrics
from server.services.handlers import KINDS, Context, Continuation, Serve, overheard

NEARLY_LATE: Final = 0.1
"""A call that is cancelled so many seconds before its deadline, or later, ran out of time: the
caller's clock began a little earlier than the server's."""

HANG_UP_SECONDS: Final = 0.1
"""Within so many seconds gRPC says of a caller whose messages have ended that it hung up: it takes
some 20 us, and 4 ms on a busy machine.
"""


class CallCounter(aio.ServerInterceptor):
    """Counts calls and their messages by method, and how they ended.

    It comes first of the interceptors, so that what others refuse is counted too. A call of a
    method that is not among `methods` is counted under no name of its caller's choice.
    """

    def __init__(self, metrics: CallMetrics, methods: Iterable[MethodDescriptor]) -> None:
        self._metrics = metrics
        self._methods = {
            f"/{each.containing_service.full_name}/{each.name}": metrics.method(
                _kind(each.client_streaming, each.server_streaming),
                each.containing_service.full_name,
                each.name,
            )
            for each in methods
        }

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wraps the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        streams = (handler.request_streaming, handler.response_streaming)
        counts = self._methods.get(handler_call_details.method)
        if counts is None:
            counts = self._metrics.method(_kind(*streams))
        behaviour, make = KINDS[streams]
        wrap = _streaming if handler.response_streaming else _unary
        serve = wrap(getattr(handler, behaviour), counts, stream=handler.request_streaming)
        return make(serve, handler.request_deserializer, handler.response_serializer)


def _unary(serve: Serve, counts: MethodMetrics, *, stream: bool) -> Serve:
    async def call(request: Any, context: Context) -> Any:
        began = time.perf_counter()
        request = _begun(request, counts, stream=stream)
        try:
            response = await serve(request, context)
        except BaseException as error:
            counts.ended(_code_of(error, context), time.perf_counter() - began)
            del request, context  # an AbortError keeps this frame: see Guard
            raise
        counts.sent()
        counts.ended(_written(context.code()), time.perf_counter() - began)
        return response

    return call


def _streaming(serve: Serve, counts: MethodMetrics, *, stream: bool) -> Serve:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        began = time.perf_counter()
        request = _begun(request, counts, stream=stream)
        try:
            async with aclosing(serve(request, overheard(context, counts.sent))) as responses:
                async for response in responses:
                    counts.sent()
                    yield response
        except BaseException as error:
            counts.ended(_code_of(error, context), time.perf_counter() - began)
            del request, context
            raise
        counts.ended(_written(context.code()), time.perf_counter() - began)

    return call


def _begun(request: Any, counts: MethodMetrics, *, stream: bool) -> Any:
    counts.began()
    if stream:
        return _Counted(request, counts)
    counts.received()
    return request


class _Counted:
    """The messages of a caller, counted.

    They end alike when it has sent all and when it has hung up, which gRPC tells by cancelling the
    call a moment later: their end is told after that moment, so that no servicer takes a cut
    connection for a message that is missing.
    """

    def __init__(self, messages: AsyncIterator[Any], counts: MethodMetrics) -> None:
        self._messages = messages
        self._counts = counts

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            message = await anext(self._messages)
        except StopAsyncIteration:
            await asyncio.sleep(HANG_UP_SECONDS)
            raise
        self._counts.received()
        return message

    async def aclose(self) -> None:
        """Ends the iterator, which holds on to its call as long as it is."""
        iterator: Any = aiter(self._messages)
        await iterator.aclose()


def _kind(requests: bool, responses: bool) -> str:
    if requests:
        return "bidi_stream" if responses else "client_stream"
    return "server_stream" if responses else "unary"


def _code_of(error: BaseException, context: Context) -> str:
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        left = context.time_remaining()
        late = left is not None and left < NEARLY_LATE
        return "DeadlineExceeded" if late else "Canceled"
    if isinstance(error, aio.AbortError) or context.code():
        return _written(context.code())
    return "Canceled" if context.done() else "Unknown"


def _written(code: Any) -> str:
    """A status code as Go writes it; what a context has is a number, a grpc.StatusCode or None."""
    if isinstance(code, grpc.StatusCode):
        return _NAMES[code.value[0]]
    return _NAMES[code or 0]


_NAMES: Final = {
    code.value[0]: "".join(part.capitalize() for part in code.name.split("_"))
    for code in grpc.StatusCode
} | {grpc.StatusCode.OK.value[0]: "OK", grpc.StatusCode.CANCELLED.value[0]: "Canceled"}
