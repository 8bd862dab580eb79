"""The floor: the same bytes over bare grpc.aio, dropped as they come, and nothing else.

One stream down and one up per client and round, in chunks of 1 MiB that no serializer touches, read
by `context.read()`. In plaintext or over mutual TLS; either side keeps gRPC's own options, and the
server has the malloc settings of the product's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import grpc
from grpc import aio

from benchmarks.contest import Result, Work, contest
from benchmarks.identities import (
    Identities,
    channel_credentials,
    client_name,
    server_credentials,
)
from benchmarks.measuring import Memory, MemoryWatch
from benchmarks.processes import Child, fork, say
from server import malloc

CHUNK: Final = 1 << 20
ROUND_SECONDS: Final = 120.0
READY_SECONDS: Final = 60.0


class GrpcFloor:
    """The yardstick as a contestant."""

    def __init__(self, work: Work, *, tls: bool = False) -> None:
        self.name = "bare grpc.aio" + (" over mutual TLS" if tls else "")
        self._work = work
        self._tls = tls
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            size = ("--clients", str(self._work.clients), "--bytes", str(self._work.nbytes))
            identities = Identities(folder) if self._tls else None
            serving = ("--identity", str(identities.server)) if identities else ()
            dialling = (
                ("--identity", str(identities.clients(self._work.clients))) if identities else ()
            )
            module = "benchmarks.grpc_floor"
            self._server = Child.module(
                "grpc-server", module, "serve", *size, *serving, folder=folder
            )
            stack.callback(self._server.end)
            port = str(self._server.hear()["port"])
            self._watch = stack.enter_context(MemoryWatch(self._server.pid))
            clients = Child.module(
                "grpc-clients", module, "send", *size, *dialling, "--port", port, folder=folder
            )
            stack.callback(clients.end)
            self._server.hear()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rounds(self, count: int) -> list[float]:
        """Does so many rounds, each until the last client's last byte was read."""
        self._server.tell(str(count))
        seconds: list[float] = self._server.hear(count * ROUND_SECONDS)
        return seconds

    def memory(self) -> Memory:
        """The server's."""
        return self._watch.memory()


class _Server(grpc.GenericRpcHandler):
    def __init__(self, clients: int, nbytes: int) -> None:
        model = os.urandom(nbytes)
        self._chunks = [model[start : start + CHUNK] for start in range(0, nbytes, CHUNK)]
        self._clients = clients
        self._nbytes = nbytes
        self._waiting = 0
        self._done = 0
        self._begins = asyncio.Event()
        self.changed = asyncio.Condition()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if call.method == "/floor/Down":
            return grpc.unary_stream_rpc_method_handler(self._down)
        return grpc.stream_unary_rpc_method_handler(self._up)

    async def ready(self) -> None:
        """Waits until every client asks for the next round's model."""
        async with asyncio.timeout(READY_SECONDS), self.changed:
            await self.changed.wait_for(lambda: self._waiting == self._clients)

    async def round(self) -> float:
        await self.ready()
        self._waiting = self._done = 0
        begun = time.perf_counter()
        self._begins.set()
        self._begins = asyncio.Event()
        async with asyncio.timeout(ROUND_SECONDS), self.changed:
            await self.changed.wait_for(lambda: self._done == self._clients)
        return time.perf_counter() - begun

    async def _down(self, request: bytes, context: aio.ServicerContext[Any, Any]) -> None:
        begins = self._begins
        async with self.changed:
            self._waiting += 1
            self.changed.notify_all()
        await begins.wait()
        for chunk in self._chunks:
            await context.write(chunk)

    async def _up(self, _: object, context: aio.ServicerContext[Any, Any]) -> bytes:
        got = 0
        while (chunk := await context.read()) is not aio.EOF:
            got += len(chunk)
        assert got == self._nbytes
        async with self.changed:
            self._done += 1
            self.changed.notify_all()
        return b""


async def _serve(clients: int, nbytes: int, identity: Path | None) -> None:
    server = aio.server()
    handler = _Server(clients, nbytes)
    server.add_generic_rpc_handlers((handler,))
    if identity is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", server_credentials(identity))
    await server.start()
    say({"port": port})
    await handler.ready()
    say({"clients": clients})
    while line := await asyncio.to_thread(sys.stdin.readline):
        say([await handler.round() for _ in range(int(line))])
    await server.stop(0)


async def _send(port: int, nbytes: int, identity: Path | None) -> None:
    update = os.urandom(nbytes)
    chunks = [update[start : start + CHUNK] for start in range(0, nbytes, CHUNK)]
    address = f"127.0.0.1:{port}"
    if identity is None:
        channel = aio.insecure_channel(address)
    else:
        channel = aio.secure_channel(address, channel_credentials(identity))
    down, up = channel.unary_stream("/floor/Down"), channel.stream_unary("/floor/Up")
    while True:
        call = down(b"")
        while await call.read() is not aio.EOF:
            pass
        sending = up()
        for chunk in chunks:
            await sending.write(chunk)
        await sending.done_writing()
        await sending


def _client(port: int, nbytes: int, identities: Path | None, index: int) -> None:
    identity = identities / client_name(index) if identities else None
    try:
        asyncio.run(_send(port, nbytes, identity))
    except aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise


def results(works: tuple[Work, ...] = (Work(8, 10),)) -> Iterator[Result]:
    """The floor for each work, in plaintext and over mutual TLS."""
    for work in works:
        yield from contest(work, [GrpcFloor(work), GrpcFloor(work, tls=True)])


def main() -> None:
    """`serve` and `send` are its processes; without them it measures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", nargs="?", default="", choices=("", "serve", "send"))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--bytes", type=int, default=10_000_000)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--identity", type=Path)
    given = parser.parse_args()
    if given.role == "serve":
        malloc.tune()
        asyncio.run(_serve(given.clients, given.bytes, given.identity))
    elif given.role == "send":
        fork(
            given.clients,
            lambda index: _client(given.port, given.bytes, given.identity, index),
        )
    else:
        for result in results((Work(given.clients, given.bytes / 1e6),)):
            print(result.row())


if __name__ == "__main__":
    main()
