"""Every call is counted with its code, whatever kind it is of and however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry
from support.served import eventually

from fednot.errors import FednotError, Reason
from server.metrics import Metrics, new_registry
from server.services.call_counting import CallCounter
from server.services.guard import Guard

SERVICE = "fednot.test.Counted"
KINDS = ("unary", "server_stream", "client_stream", "bidi_stream")
every_kind = pytest.mark.parametrize("kind", KINDS)
Context = aio.ServicerContext[bytes, bytes]


async def meet(request: bytes, context: Context) -> None:
    """Fails as the request says."""
    if request == b"refuse":
        raise FednotError(Reason.UNKNOWN_DELETION, "there is none")
    if request == b"break":
        raise RuntimeError("broken")
    if request == b"abort":
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "its own status")
    if request == b"set":
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
    if request == b"hang":
        await asyncio.sleep(60)


async def one_of_one(request: bytes, context: Context) -> bytes:
    await meet(request, context)
    return request


async def two_of_one(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield b"first"
    await meet(request, context)
    yield request


async def one_of_many(requests: AsyncIterator[bytes], context: Context) -> bytes:
    async for request in requests:
        await meet(request, context)
    return b"all"


async def many_of_many(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    async for request in requests:
        await meet(request, context)
        yield request


async def two_by_itself(request: bytes, context: Context) -> None:
    """As gRPC's own servicer of health does."""
    for _ in range(2):
        await context.write(request)


def two(request: bytes, context: Context) -> Any:
    return (two_by_itself if request == b"write" else two_of_one)(request, context)


HANDLERS = {
    "unary": grpc.unary_unary_rpc_method_handler(one_of_one),
    "server_stream": grpc.unary_stream_rpc_method_handler(two),
    "client_stream": grpc.stream_unary_rpc_method_handler(one_of_many),
    "bidi_stream": grpc.stream_stream_rpc_method_handler(many_of_many),
}


def descriptor(kind: str) -> Any:
    return SimpleNamespace(
        containing_service=SimpleNamespace(full_name=SERVICE),
        name=kind,
        client_streaming=kind in ("client_stream", "bidi_stream"),
        server_streaming=kind in ("server_stream", "bidi_stream"),
    )


class Rig:
    """A channel to handlers behind the counter, and what it has counted."""

    def __init__(self, channel: aio.Channel, registry: CollectorRegistry) -> None:
        self.channel, self._registry = channel, registry

    async def call(self, kind: str, *requests: bytes, seconds: float = 10) -> int:
        """The number of answers."""
        path = f"/{SERVICE}/{kind}"
        if kind == "unary":
            return len([await self.channel.unary_unary(path)(requests[0], timeout=seconds)])
        if kind == "server_stream":
            answers = self.channel.unary_stream(path)(requests[0], timeout=seconds)
            return len([answer async for answer in answers])
        if kind == "client_stream":
            method = self.channel.stream_unary(path)
            return len([await method(iter(requests), timeout=seconds)])
        both = self.channel.stream_stream(path)(iter(requests), timeout=seconds)
        return len([answer async for answer in both])

    def counted(self, name: str, kind: str, **more: str) -> float | None:
        labels = {"grpc_type": kind, "grpc_service": SERVICE, "grpc_method": kind}
        return self._registry.get_sample_value(f"grpc_server_{name}", labels | more)

    async def code(self, kind: str) -> str:
        """The code of the only call."""
        await eventually("it ends", lambda: bool(self.counted("handling_seconds_count", kind)))
        handled = [
            sample
            for family in self._registry.collect()
            if family.name == "grpc_server_handled"
            for sample in family.samples
            if sample.value
        ]
        assert [(sample.labels["grpc_method"], sample.value) for sample in handled] == [(kind, 1)]
        return handled[0].labels["grpc_code"]


@pytest.fixture(params=["alone", "before the guard"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    registry = new_registry()
    metrics = Metrics(registry, "test")
    interceptors: Iterable[aio.ServerInterceptor] = [
        CallCounter(metrics.calls, [descriptor(kind) for kind in KINDS])
    ]
    if request.param != "alone":
        interceptors = [*interceptors, Guard(metrics, may=lambda method, caller: None)]
    server = aio.server(interceptors=interceptors)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        yield Rig(channel, registry)
    await server.stop(None)


@every_kind
async def test_a_call_that_succeeds_is_counted_with_its_messages(rig: Rig, kind: str) -> None:
    requests = 1 if kind in ("unary", "server_stream") else 3
    answers = await rig.call(kind, *[b"a"] * requests)
    assert await rig.code(kind) == "OK"
    assert rig.counted("started_total", kind) == 1
    assert rig.counted("msg_received_total", kind) == requests
    assert rig.counted("msg_sent_total", kind) == answers


@pytest.mark.parametrize("rig", ["before the guard"], indirect=True)
async def test_what_a_servicer_writes_to_its_context_by_itself_is_counted(rig: Rig) -> None:
    assert await rig.call("server_stream", b"write") == 2
    assert await rig.code("server_stream") == "OK"
    assert rig.counted("msg_sent_total", "server_stream") == 2


@every_kind
async def test_before_its_first_call_a_method_is_at_zero(rig: Rig, kind: str) -> None:
    assert rig.counted("started_total", kind) == 0
    assert rig.counted("handled_total", kind, grpc_code="OK") == 0
    assert rig.counted("handling_seconds_count", kind) == 0


@every_kind
@pytest.mark.parametrize(
    ("request_", "code"), [(b"abort", "OutOfRange"), (b"set", "AlreadyExists")]
)
async def test_a_code_that_a_servicer_gives_is_counted(
    rig: Rig, kind: str, request_: bytes, code: str
) -> None:
    with pytest.raises(aio.AioRpcError):
        await rig.call(kind, request_)
    assert await rig.code(kind) == code


@every_kind
@pytest.mark.parametrize("rig", ["alone"], indirect=True)
async def test_an_error_that_nobody_translates_is_unknown(rig: Rig, kind: str) -> None:
    with pytest.raises(aio.AioRpcError):
        await rig.call(kind, b"break")
    assert await rig.code(kind) == "Unknown"


@every_kind
@pytest.mark.parametrize("rig", ["before the guard"], indirect=True)
async def test_a_refusal_is_counted_with_the_code_that_the_guard_gives_it(
    rig: Rig, kind: str
) -> None:
    with pytest.raises(aio.AioRpcError):
        await rig.call(kind, b"refuse")
    assert await rig.code(kind) == "NotFound"


@every_kind
async def test_a_call_that_runs_out_of_time_is_told_from_one_that_is_cancelled(
    rig: Rig, kind: str
) -> None:
    with pytest.raises(aio.AioRpcError):
        await rig.call(kind, b"hang", seconds=2)
    assert await rig.code(kind) == "DeadlineExceeded"


@every_kind
async def test_a_call_that_the_caller_cancels_is_counted_as_cancelled(rig: Rig, kind: str) -> None:
    calling = asyncio.create_task(rig.call(kind, b"hang"))
    await eventually("it begins", lambda: bool(rig.counted("msg_received_total", kind)))
    calling.cancel()
    with suppress(asyncio.CancelledError):
        await calling
    assert await rig.code(kind) == "Canceled"


async def test_a_reader_that_goes_in_the_middle_of_a_stream_is_counted(rig: Rig) -> None:
    """The server is then in the write of a message, not in the servicer."""
    call = rig.channel.stream_stream(f"/{SERVICE}/bidi_stream")(timeout=10)
    sending = asyncio.create_task(_send_for_ever(call))
    assert await call.read() == b"x" * (1 << 20)
    call.cancel()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert await rig.code("bidi_stream") == "Canceled"


@pytest.mark.parametrize("kind", ["client_stream", "bidi_stream"])
async def test_a_hang_up_that_is_told_late_is_no_end_of_the_messages(kind: str) -> None:
    """gRPC ends the messages first and cancels the call then, at times in a later turn."""
    registry = new_registry()
    counter = CallCounter(Metrics(registry, "test").calls, [descriptor(kind)])
    ended = False

    async def messages() -> AsyncIterator[bytes]:
        yield b"a"

    async def read(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        nonlocal ended
        async for request in requests:
            yield request
        ended = True

    async def answer(requests: AsyncIterator[bytes], context: Context) -> bytes:
        return b"".join([request async for request in read(requests, context)])

    both = kind == "bidi_stream"
    one, many = grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    made = many(read) if both else one(answer)
    found = await _intercepted(counter, f"/{SERVICE}/{kind}", lambda _: _found(made))
    context = SimpleNamespace(time_remaining=lambda: None, code=lambda: None)

    async def served() -> None:
        if both:
            assert [each async for each in found.stream_stream(messages(), context)]
        else:
            await found.stream_unary(messages(), context)

    call = asyncio.create_task(served())
    asyncio.get_running_loop().call_later(0.02, call.cancel)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not ended
    assert await Rig(None, registry).code(kind) == "Canceled"  # type: ignore[arg-type]


async def _send_for_ever(call: aio.StreamStreamCall[bytes, bytes]) -> None:
    while True:
        await call.write(b"x" * (1 << 20))


@every_kind
async def test_a_name_that_is_not_served_is_no_label(kind: str) -> None:
    registry = new_registry()
    metrics = Metrics(registry, "test")
    counter = CallCounter(metrics.calls, [])
    await _intercepted(counter, f"/{SERVICE}/c1-is-ill", lambda _: _found(HANDLERS[kind]))
    await _intercepted(counter, f"/{SERVICE}/nothing", lambda _: _found(None))
    text = metrics.render()[0].decode()
    assert f'grpc_method="unknown",grpc_service="unknown",grpc_type="{kind}"' in text
    assert "c1-is-ill" not in text
    assert SERVICE not in text


async def _intercepted(
    counter: CallCounter, method: str, find: Callable[[Any], Awaitable[Any]]
) -> Any:
    return await counter.intercept_service(find, SimpleNamespace(method=method))  # type: ignore[arg-type]


async def _found(handler: Any) -> Any:
    return handler
