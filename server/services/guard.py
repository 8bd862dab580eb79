"""Puts every call's errors through the one translator, and counts refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from grpc import aio
from grpc_status import rpc_status

from fednot.errors import FednotError, Reason
from fednot.rpc_errors import to_status
from server.metrics import Metrics

log = logging.getLogger("server.services")

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class Guard(aio.ServerInterceptor):
    """Translates FednotError to google.rpc.Status; any other exception becomes INTERNAL.

    The text of an unexpected exception stays in the log and does not leave the server.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wraps the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if handler.response_streaming:
            wrapped = self._streaming(handler.unary_stream or handler.stream_stream)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            wrapped = self._unary(handler.unary_unary or handler.stream_unary)
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def _unary(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            try:
                return await method(request, context)
            except Exception as error:
                await self._abort(error, context)

        return call

    def _streaming(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                async for response in method(request, context):
                    yield response
            except Exception as error:
                await self._abort(error, context)

        return call

    async def _abort(self, error: Exception, context: aio.ServicerContext[Any, Any]) -> NoReturn:
        if isinstance(error, aio.AbortError):
            raise error
        if isinstance(error, asyncio.InvalidStateError) and context.done():
            raise error
        if not isinstance(error, FednotError):
            log.exception("a call failed", exc_info=error)
            error = FednotError(Reason.INTERNAL, "the server met an unexpected fault")
        self._metrics.refusals.labels(error.reason).inc()
        status = rpc_status.to_status(to_status(error))
        context.set_trailing_metadata(status.trailing_metadata)
        await context.abort(status.code, status.details)
