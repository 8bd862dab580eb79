"""What an interceptor wraps: the four kinds of handlers, and how one of each is made anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

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
