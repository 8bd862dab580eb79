"""What mutual TLS and the judgement of each call cost, against the same calls in plaintext."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fednot.channel import SERVER_OPTIONS, open_aio_channel
from fednot.identity.authority import Authority
from fednot.identity.folder import Credentials
from fednot.identity.subject import Role, Subject
from server.identity import ServerIdentity, open_identity
from server.metrics import Metrics, new_registry
from server.services.guard import Guard

CALLS = 2000
JUDGEMENTS = 20_000


def figures() -> Iterator[str]:
    """Milliseconds a small call takes over mutual TLS, and the ratio to plaintext."""
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority.create(Path(folder) / "authority", hosts=["127.0.0.1"])
        officer = authority.issue(Subject(Role.OFFICER, "dora"), Path(folder) / "dora")
        identity = open_identity(authority.server_folder, None, None)
        secured = asyncio.run(_seconds_a_call(identity, officer))
        plain = asyncio.run(_seconds_a_call(None, None))
        judged = _seconds_a_judgement(identity, officer)
    yield (
        f"calls: {1000 * secured:.2f} ms a call over mutual TLS, "
        f"{secured / plain:.2f} x plaintext ({1000 * plain:.2f} ms)"
    )
    yield f"calls: {1e6 * judged:.1f} us of it judge the certificate"


async def _seconds_a_call(identity: ServerIdentity | None, caller: Credentials | None) -> float:
    server = aio.server(
        interceptors=[Guard(Metrics(new_registry(), "bench"), identity)], options=SERVER_OPTIONS
    )
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if identity is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", identity.credentials())
    await server.start()
    async with open_aio_channel(f"127.0.0.1:{port}", caller) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        request = health_pb2.HealthCheckRequest()
        await check(request, timeout=10)
        begun = time.perf_counter()
        for _ in range(CALLS):
            await check(request, timeout=10)
        seconds = time.perf_counter() - begun
    await server.stop(0)
    return seconds / CALLS


def _seconds_a_judgement(identity: ServerIdentity, caller: Credentials) -> float:
    identity.caller_of(caller.chain)
    begun = time.perf_counter()
    for _ in range(JUDGEMENTS):
        identity.caller_of(caller.chain)
    return (time.perf_counter() - begun) / JUDGEMENTS
