"""A new line for new calls while calls in flight end on the old one, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc import aio
from support.handmade_authority import HandMadeAuthority

from client.dialler import Dialler
from fednot.identity.folder import Credentials
from fednot.v1 import federation_pb2 as pb
from fednot.v1.federation_pb2_grpc import (
    FederationServiceServicer,
    add_FederationServiceServicer_to_server,
)

WAIT = 20.0


class Held(FederationServiceServicer):
    """Polls and downloads wait until they are let go; each call notes its certificate and peer."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.go = asyncio.Event()
        self.peers: dict[str, str] = {}
        self.serials: dict[str, int] = {}

    async def note(self, call: str, context: Any) -> None:
        [pem] = context.auth_context()["x509_pem_cert"]
        self.serials[call] = x509.load_pem_x509_certificate(pem).serial_number
        self.peers[call] = context.peer()
        await self.begun.put(call)

    async def Heartbeat(self, request: Any, context: Any) -> pb.HeartbeatResponse:
        await self.note(request.work_id, context)
        return pb.HeartbeatResponse(work_stands=True)

    async def PollWork(self, request: Any, context: Any) -> pb.PollWorkResponse:
        await self.note("poll", context)
        await self.go.wait()
        return pb.PollWorkResponse(train=pb.TrainWork(work_id="w"))

    async def DownloadModel(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.note("download", context)
        yield pb.DownloadModelResponse(chunk=b"first")
        await self.go.wait()
        yield pb.DownloadModelResponse(chunk=b"last")

    async def UploadUpdate(self, requests: Any, context: Any) -> Any:
        await self.note("upload", context)
        chunks = [request.chunk async for request in requests]
        return pb.UploadUpdateResponse(round=len(chunks))


@pytest.fixture
def authority() -> HandMadeAuthority:
    return HandMadeAuthority()


@pytest.fixture
async def held(authority: HandMadeAuthority, tmp_path: Path) -> AsyncIterator[tuple[Held, str]]:
    own = authority.server(tmp_path / "server")
    tls = grpc.ssl_server_credentials(
        [(own.private_key, own.chain)], own.trust, require_client_auth=True
    )
    servicer, server = Held(), aio.server()
    add_FederationServiceServicer_to_server(servicer, server)
    port = server.add_secure_port("127.0.0.1:0", tls)
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
def old(authority: HandMadeAuthority, tmp_path: Path) -> Credentials:
    return authority.identity(tmp_path / "old")


@pytest.fixture
def new(authority: HandMadeAuthority, tmp_path: Path) -> Credentials:
    return authority.identity(tmp_path / "new")


async def beat(dialler: Dialler, name: str) -> None:
    await dialler.call(lambda stub: stub.Heartbeat(pb.HeartbeatRequest(work_id=name), timeout=WAIT))


async def download(dialler: Dialler) -> list[bytes]:
    with dialler.line() as line:
        call = line.federation.DownloadModel(pb.DownloadModelRequest(), timeout=WAIT)
        return [part.chunk async for part in call]


async def upload(dialler: Dialler, go: asyncio.Event) -> int:
    with dialler.line() as line:
        call = line.federation.UploadUpdate(timeout=WAIT)
        await call.write(pb.UploadUpdateRequest(chunk=b"first"))
        await go.wait()
        await call.write(pb.UploadUpdateRequest(chunk=b"last"))
        await call.done_writing()
        return (await call).round


async def test_calls_in_flight_end_on_the_old_line(
    held: tuple[Held, str], old: Credentials, new: Credentials
) -> None:
    """A poll, a download and an upload are in flight; a new call shows the new certificate."""
    servicer, address = held
    dialler = Dialler(address, old)
    poll = dialler.call(lambda stub: stub.PollWork(pb.PollWorkRequest(), timeout=WAIT))
    tasks = [asyncio.ensure_future(poll), asyncio.ensure_future(download(dialler))]
    tasks.append(asyncio.ensure_future(upload(dialler, servicer.go)))
    async with asyncio.timeout(WAIT):
        assert {await servicer.begun.get() for _ in tasks} == {"poll", "download", "upload"}
    dialler.redial(new)
    await beat(dialler, "beat")
    assert servicer.peers["beat"] != servicer.peers["poll"]
    assert servicer.serials["beat"] == new.certificate.serial_number
    await asyncio.sleep(0.3)
    assert [task.done() for task in tasks] == [False, False, False]
    servicer.go.set()
    async with asyncio.timeout(WAIT):
        polled, downloaded, uploaded = await asyncio.gather(*tasks)
    assert polled.train.work_id == "w"
    assert (downloaded, uploaded) == ([b"first", b"last"], 2)
    assert {servicer.serials[call] for call in ("poll", "download", "upload")} == {
        old.certificate.serial_number
    }
    await dialler.close()


async def test_an_old_line_is_closed_once_its_last_call_has_ended(
    held: tuple[Held, str], old: Credentials, new: Credentials
) -> None:
    servicer, address = held
    dialler = Dialler(address, old)
    with dialler.line() as line:
        dialler.redial(new)
        await line.federation.Heartbeat(pb.HeartbeatRequest(work_id="in"), timeout=WAIT)
    await asyncio.sleep(0.1)
    with pytest.raises(aio.UsageError):
        await line.federation.Heartbeat(pb.HeartbeatRequest(work_id="after"), timeout=WAIT)
    await beat(dialler, "new")
    assert (servicer.serials["in"], servicer.serials["new"]) == (
        old.certificate.serial_number,
        new.certificate.serial_number,
    )
    await dialler.close()


async def test_closing_ends_calls_in_flight_on_every_line(
    held: tuple[Held, str], old: Credentials, new: Credentials
) -> None:
    servicer, address = held
    dialler = Dialler(address, old)
    poll = dialler.call(lambda stub: stub.PollWork(pb.PollWorkRequest(), timeout=WAIT))
    task = asyncio.ensure_future(poll)
    async with asyncio.timeout(WAIT):
        await servicer.begun.get()
    dialler.redial(new)
    await dialler.close()
    done, _ = await asyncio.wait({task}, timeout=5)
    assert done
