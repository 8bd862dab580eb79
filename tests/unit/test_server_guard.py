"""The guard: what leaves the server when a call fails, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fednot.errors import FednotError, Reason
from fednot.rpc_errors import from_rpc_error
from server.metrics import Metrics, new_registry
from server.records import Caller
from server.services.call_counting import CallCounter
from server.services.guard import Guard

SERVICE = "fednot.test.Faults"
REFUSAL = FednotError(Reason.ROUND_OVER, "the round has ended", retry_after=2.0)
DENIAL = FednotError(
    Reason.NOT_YOUR_DELETION,
    "c2 is not yours to forget",
    metadata={"client": "c2", "job_id": "job-2"},
)
SECRET = "password=hunter2"
STREAMS = 8

Context = aio.ServicerContext[bytes, bytes]


class Faults:
    """One method of each kind. A request fails as it says: refuse, deny, break, abort or hang."""

    def __init__(self) -> None:
        self.hanging = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def _meet(self, request: bytes, context: Context) -> None:
        if request == b"refuse":
            raise REFUSAL
        if request == b"refuse anew":  # an error that is kept would keep the call, too
            raise FednotError(Reason.ROUND_OVER, "the round has ended")
        if request == b"deny":
            raise DENIAL
        if request == b"leave out":
            raise NotImplementedError
        if request == b"break":
            raise RuntimeError(SECRET)
        if request == b"abort":
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "its own status")
        if request == b"hang":
            self.hanging.set()
            try:
                await asyncio.sleep(60)
            finally:
                self.cancelled.set()

    async def unary_unary(self, request: bytes, context: Context) -> bytes:
        await self._meet(request, context)
        return request

    async def unary_stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        await self._meet(request, context)
        yield request

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        found = b""
        async for request in requests:
            await self._meet(request, context)
            found += request
        return found

    async def stream_stream(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            await self._meet(request, context)
            yield request

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
        return {
            "UnaryUnary": grpc.unary_unary_rpc_method_handler(self.unary_unary),
            "UnaryStream": grpc.unary_stream_rpc_method_handler(self.unary_stream),
            "StreamUnary": grpc.stream_unary_rpc_method_handler(self.stream_unary),
            "StreamStream": grpc.stream_stream_rpc_method_handler(self.stream_stream),
        }


class NotedRefusals:
    """Keeps what the guard notes for the audit."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str, str, str, str]] = []

    async def note(
        self, caller: Caller, action: str, reason: Reason, subject: str = "", job_id: str = ""
    ) -> None:
        self.noted.append((caller.key, action, reason, subject, job_id))


class Strangers:
    """Knows nobody."""

    def caller_of(self, pem: bytes) -> Caller:
        raise FednotError(Reason.INVALID_CERTIFICATE, "nobody issued it")

    def holder_of(self, pem: bytes) -> Caller:
        raise FednotError(Reason.INVALID_CERTIFICATE, "nobody issued it")


@dataclass(frozen=True)
class Rig:
    """A channel to the faults behind a guard, and what the guard counts and notes."""

    channel: aio.Channel
    metrics: Metrics
    faults: Faults
    guard: Guard
    health: health.aio.HealthServicer
    noted: list[tuple[str, str, str, str, str]]

    def refusals(self) -> dict[str, float]:
        samples = next(iter(self.metrics.calls._refusals.collect())).samples
        counted = (s for s in samples if s.name.endswith("_total") and s.value)
        return {s.labels["reason"]: s.value for s in counted}

    async def unary_unary(self, *requests: bytes) -> list[bytes]:
        return [await self.channel.unary_unary(f"/{SERVICE}/UnaryUnary")(requests[0], timeout=10)]

    async def unary_stream(self, *requests: bytes) -> list[bytes]:
        call = self.channel.unary_stream(f"/{SERVICE}/UnaryStream")(requests[0], timeout=10)
        return [response async for response in call]

    async def stream_unary(self, *requests: bytes) -> list[bytes]:
        method = self.channel.stream_unary(f"/{SERVICE}/StreamUnary")
        return [await method(iter(requests), timeout=10)]

    async def stream_stream(self, *requests: bytes) -> list[bytes]:
        method = self.channel.stream_stream(f"/{SERVICE}/StreamStream")
        return [response async for response in method(iter(requests), timeout=10)]

    def kind(self, name: str) -> Callable[..., Awaitable[list[bytes]]]:
        found: Callable[..., Awaitable[list[bytes]]] = getattr(self, name)
        return found


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    metrics, faults = Metrics(new_registry(), "test"), Faults()
    refusals = NotedRefusals()
    guard = Guard(metrics, refusals=refusals, may=lambda method, caller: None)
    server = aio.server(
        interceptors=[CallCounter(metrics.calls, ()), guard],
        options=[("grpc.max_concurrent_streams", STREAMS)],
    )
    serving = health.aio.HealthServicer()
    await serving.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(serving, server)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, faults.handlers()),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Rig(channel, metrics, faults, guard, serving, refusals.noted)
    await server.stop(None)


KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
async def test_a_call_that_succeeds_passes_unchanged(rig: Rig, kind: str) -> None:
    expected = {
        "unary_unary": [b"a"],
        "unary_stream": [b"first", b"a"],
        "stream_unary": [b"ab"],
        "stream_stream": [b"a", b"b"],
    }
    assert await rig.kind(kind)(b"a", b"b") == expected[kind]
    assert rig.refusals() == {}


@every_kind
async def test_a_call_that_was_refused_gives_its_place_back_at_once(rig: Rig, kind: str) -> None:
    """Not when the garbage collector comes by: until then, the connection could make no call."""
    gc.disable()
    try:
        for _ in range(4 * STREAMS):
            with pytest.raises(aio.AioRpcError) as failure:
                await rig.kind(kind)(b"refuse anew")
            # A sender of a stream may be told INTERNAL by its own side, if it was still sending.
            assert failure.value.code() is not grpc.StatusCode.UNAVAILABLE, failure.value.details()
    finally:
        gc.enable()


async def test_metadata_beyond_the_limit_are_refused_before_a_message_is_awaited(rig: Rig) -> None:
    """gRPC has a limit of its own, to which only callers keep who have agreed to it."""
    details = SimpleNamespace(
        method=f"/{SERVICE}/UnaryUnary", invocation_metadata=(("x", "y"),) * 1000
    )

    async def unreached(_: object) -> None:
        raise AssertionError("no handler is looked for")

    guard = Guard(rig.metrics)
    handler = await guard.intercept_service(unreached, details)  # type: ignore[arg-type]

    assert handler.request_streaming


@every_kind
async def test_a_refusal_arrives_with_its_reason_and_is_counted(rig: Rig, kind: str) -> None:
    with pytest.raises(aio.AioRpcError) as failure:
        await rig.kind(kind)(b"refuse")
    found = from_rpc_error(failure.value)
    assert found is not None
    assert (failure.value.code(), found.reason) == (grpc.StatusCode.ABORTED, Reason.ROUND_OVER)
    assert (found.message, found.retry_after) == ("the round has ended", 2.0)
    assert rig.refusals() == {"ROUND_OVER": 1.0}


@every_kind
async def test_a_denial_is_noted_with_whom_it_is_about(rig: Rig, kind: str) -> None:
    with pytest.raises(aio.AioRpcError, match="not yours"):
        await rig.kind(kind)(b"deny")
    action = f"Faults.{kind.title().replace('_', '')}"
    assert rig.noted == [("", action, "NOT_YOUR_DELETION", "client/c2", "job-2")]


@every_kind
async def test_a_method_that_was_left_out_is_no_fault(rig: Rig, kind: str) -> None:
    with pytest.raises(aio.AioRpcError, match="is not implemented here") as failure:
        await rig.kind(kind)(b"leave out")
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (rig.refusals(), rig.noted) == ({}, [])


async def test_the_course_of_things_is_not_noted(rig: Rig) -> None:
    for request in (b"refuse", b"break", b"abort"):
        with pytest.raises(aio.AioRpcError):
            await rig.unary_unary(request)
    assert rig.noted == []


async def test_a_method_that_writes_to_its_context_itself_is_served(rig: Rig) -> None:
    call = health_pb2_grpc.HealthStub(rig.channel).Watch(health_pb2.HealthCheckRequest())
    answer = await asyncio.wait_for(call.read(), 10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    call.cancel()


async def test_who_is_no_longer_known_is_told_nothing_by_such_a_method_either(rig: Rig) -> None:
    call = health_pb2_grpc.HealthStub(rig.channel).Watch(health_pb2.HealthCheckRequest())
    assert await asyncio.wait_for(call.read(), 10)
    rig.guard._door._identities = Strangers()
    await rig.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    with pytest.raises(aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), 10)
    refused = from_rpc_error(caught.value)
    assert refused is not None
    assert refused.reason is Reason.NO_CERTIFICATE


@every_kind
async def test_the_text_of_an_unexpected_exception_stays_in_the_log(
    rig: Rig, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(aio.AioRpcError) as failure:
        await rig.kind(kind)(b"break")
    found = from_rpc_error(failure.value)
    assert found is not None
    assert (failure.value.code(), found.reason) == (grpc.StatusCode.INTERNAL, Reason.INTERNAL)
    told = f"{failure.value.details()} {list(failure.value.trailing_metadata() or ())}"
    assert "hunter2" not in told
    assert "RuntimeError" not in told
    assert SECRET in caplog.text
    assert rig.refusals() == {"INTERNAL": 1.0}


@every_kind
async def test_a_status_that_a_method_set_itself_is_left_alone(rig: Rig, kind: str) -> None:
    with pytest.raises(aio.AioRpcError) as failure:
        await rig.kind(kind)(b"abort")
    assert failure.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert failure.value.details() == "its own status"
    assert rig.refusals() == {}


async def test_what_a_stream_sent_before_its_failure_arrives(rig: Rig) -> None:
    call = rig.channel.unary_stream(f"/{SERVICE}/UnaryStream")(b"refuse", timeout=10)
    assert await call.read() == b"first"
    with pytest.raises(aio.AioRpcError, match="the round has ended"):
        await call.read()


async def test_a_caller_that_hangs_up_is_no_refusal_and_ends_the_method(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    call = rig.channel.unary_unary(f"/{SERVICE}/UnaryUnary")(b"hang", timeout=10)
    await asyncio.wait_for(rig.faults.hanging.wait(), 5)
    call.cancel()
    await asyncio.wait_for(rig.faults.cancelled.wait(), 5)
    assert rig.refusals() == {}
    assert "a call failed" not in caplog.text


async def test_a_method_that_does_not_exist_is_unimplemented(rig: Rig) -> None:
    with pytest.raises(aio.AioRpcError) as failure:
        await rig.channel.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=10)
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert from_rpc_error(failure.value) is None
