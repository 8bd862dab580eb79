"""What an interceptor wraps: the four kinds of handlers, how one of each is made anew, and the
context to which a handler may write by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import grpc
from grpc import aio

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]
Context = aio.ServicerContext[Any, Any]
Serve = Callable[[Any, Context], Any]

KINDS: Final = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
"""By whether requests and responses are streams: the handler's attribute and its maker."""


def overheard(context: Context, hear: Callable[[], object]) -> Context:
    """A context that tells `hear` of each message that a servicer writes to it by itself, as gRPC's
    own of health does, before the message leaves. What `hear` raises ends the call.
    """
    return cast("Context", _Overheard(context, hear))


class _Overheard:
    def __init__(self, context: Context, hear: Callable[[], object]) -> None:
        self._context = context
        self._hear = hear

    async def write(self, message: Any) -> None:
        """Sends a message to the caller."""
        self._hear()
        await self._context.write(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
