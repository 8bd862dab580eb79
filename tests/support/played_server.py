"""A server that a test plays by hand, and real client processes that dial it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import torch
from cryptography import x509
from google.protobuf import duration_pb2
from grpc import aio
from support.client_process import WAIT, ClientProcess
from support.handmade_authority import HandMadeAuthority

from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.manifest import Manifest
from fednot.rpc_errors import to_status
from fednot.task_loading import load_task
from fednot.tensors import as_bytes, difference, flatten_module, load_into
from fednot.training import TrainContext
from fednot.v1 import deletion_pb2, identity_pb2, model_pb2
from fednot.v1 import federation_pb2 as pb
from fednot.v1.deletion_pb2_grpc import (
    DeletionServiceServicer,
    add_DeletionServiceServicer_to_server,
)
from fednot.v1.federation_pb2_grpc import (
    FederationServiceServicer,
    add_FederationServiceServicer_to_server,
)
from fednot.v1.identity_pb2_grpc import (
    IdentityServiceServicer,
    add_IdentityServiceServicer_to_server,
)
from fednot.wire import checksum, chunks

ENDING = 30.0

TASK = """
import time
import torch
from torch import nn
import fednot

class Blobs:
    def __init__(self, size):
        points = torch.Generator().manual_seed(size)
        self.inputs = torch.randn(size, 4, generator=points)
        self.targets = (self.inputs.sum(dim=1) > 0).long()
    def __len__(self):
        return len(self.inputs)
    def __getitem__(self, index):
        return self.inputs[index], int(self.targets[index])
    def sample_id(self, index):
        return str(index)

class TinyTask(fednot.Task):
    batch_size = 8
    def build_model(self):
        return nn.Sequential(nn.Linear(4, 256), nn.ReLU(), nn.Linear(256, 2))
    def train_data(self):
        return Blobs(40)
    def test_data(self):
        return Blobs(16)
    def train(self, model, data, context):
        if context.config.get("fail"):
            raise RuntimeError("the disk is gone")
        while context.config.get("linger"):
            context.check()
            time.sleep(0.01)
        time.sleep(context.config.get("slow", 0.0))
        if context.config.get("deaf"):
            time.sleep(60)
        return super().train(model, data, context)
"""


class Play(FederationServiceServicer, IdentityServiceServicer, DeletionServiceServicer):
    """A server by hand: the test queues work and reads what came back.

    `serials` are those of the certificates that each call has shown, in the order of the calls;
    with `refuse` set, every call is refused. Certificates are signed by `authority`.
    """

    def __init__(
        self, flat: torch.Tensor, manifest: Manifest, authority: HandMadeAuthority
    ) -> None:
        self.authority = authority
        self.trust = authority.trust
        self.trust_digest = ""
        self.refuse: FednotError | None = None
        self.serials: dict[str, list[int]] = {}
        self.flat, self.manifest = flat, manifest
        self.work: asyncio.Queue[pb.PollWorkResponse] = asyncio.Queue()
        self.seen: asyncio.Queue[Any] = asyncio.Queue()
        self.sessions: list[str] = []
        self.known: set[str] = set()
        self.standing = True
        self.refuse_join: FednotError | None = None
        self.beats: list[pb.HeartbeatRequest] = []
        self.cut_downloads = 0
        self.resumed_at = 0
        self.downloads = 0
        self.forget_at_upload = 0
        self.busy_at_leave = 0.0
        self.bars = False
        self.polled: list[float] = []
        self.refuse_unlearn: FednotError | None = None
        self.asked: list[deletion_pb2.UnlearnRequest] = []
        self.codec = model_pb2.UPDATE_CODEC_NONE

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:
        await self.note("Join", context)
        if self.refuse_join:
            await abort(context, self.refuse_join)
        session = f"s{len(self.sessions)}"
        self.sessions.append(session)
        self.known.add(session)
        await self.seen.put(request)
        interval = duration_pb2.Duration(nanos=100_000_000)
        return pb.JoinResponse(
            session_id=session, heartbeat_interval=interval, codec=self.codec, top_k_fraction=0.1
        )

    async def PollWork(self, request: Any, context: Any) -> pb.PollWorkResponse:
        await self.note("PollWork", context)
        await self.check(request, context)
        self.polled.append(asyncio.get_running_loop().time())
        with suppress(TimeoutError):
            return await asyncio.wait_for(self.work.get(), 0.2 if not self.bars else 1.0)
        if self.bars:
            barred = pb.Barred(message="it was forgotten", request_id="r1")
            return pb.PollWorkResponse(barred=barred)
        return pb.PollWorkResponse()

    async def DownloadModel(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.note("DownloadModel", context)
        self.downloads += 1
        await self.check(request, context)
        payload = as_bytes(self.flat)
        header = model_pb2.ModelHeader(
            version=1,
            manifest_digest=self.manifest.digest,
            num_bytes=len(payload),
            offset=request.offset,
        )
        yield pb.DownloadModelResponse(header=header)
        if self.cut_downloads:
            self.cut_downloads -= 1
            half = len(payload) // 2
            yield pb.DownloadModelResponse(chunk=bytes(payload[request.offset : half]))
            return
        self.resumed_at = request.offset
        for chunk in chunks(payload[request.offset :]):
            yield pb.DownloadModelResponse(chunk=chunk)
        trailer = model_pb2.StreamTrailer(xxh3_128=checksum(payload))
        yield pb.DownloadModelResponse(trailer=trailer)

    async def UploadUpdate(self, requests: Any, context: Any) -> Any:
        header = (await anext(requests)).header
        await self.note("UploadUpdate", context)
        if self.forget_at_upload:
            self.forget_at_upload -= 1
            self.known.clear()
            await self.seen.put(header)
        await self.check(header, context)
        payload = bytearray()
        await context.send_initial_metadata((("fednot-offset", "0"),))
        async for request in requests:
            payload += request.chunk
        assert checksum(memoryview(payload)) == header.xxh3_128
        await self.seen.put((header, torch.frombuffer(payload, dtype=torch.uint8)))
        return pb.UploadUpdateResponse(round=3)

    async def ReportEvaluation(self, request: Any, context: Any) -> Any:
        await self.seen.put(request)
        return pb.ReportEvaluationResponse()

    async def ReportFailure(self, request: Any, context: Any) -> Any:
        await self.seen.put(request)
        return pb.ReportFailureResponse()

    async def ReportDestruction(self, request: Any, context: Any) -> Any:
        await self.check(request, context)
        await self.seen.put(request)
        return pb.ReportDestructionResponse()

    async def ReportForgetting(self, request: Any, context: Any) -> Any:
        await self.check(request, context)
        await self.seen.put(request)
        return pb.ReportForgettingResponse()

    async def ReportProfile(self, request: Any, context: Any) -> Any:
        await self.check(request, context)
        await self.seen.put(request)
        return pb.ReportProfileResponse()

    async def Unlearn(self, request: Any, context: Any) -> Any:
        await self.note("Unlearn", context)
        if self.refuse_unlearn:
            await abort(context, self.refuse_unlearn)
        self.asked.append(request)
        await self.seen.put(request)
        deletion = deletion_pb2.Deletion(request_id=request.request_id, scope=request.scope)
        deletion.job.id = "job-own"
        return deletion_pb2.UnlearnResponse(deletion=deletion)

    async def Heartbeat(self, request: Any, context: Any) -> pb.HeartbeatResponse:
        await self.note("Heartbeat", context)
        await self.check(request, context)
        self.beats.append(request)
        return pb.HeartbeatResponse(work_stands=self.standing, trust_digest=self.trust_digest)

    async def Leave(self, request: Any, context: Any) -> pb.LeaveResponse:
        await asyncio.sleep(self.busy_at_leave)
        await self.seen.put(request)
        return pb.LeaveResponse()

    async def RenewCertificate(self, request: Any, context: Any) -> Any:
        await self.note("RenewCertificate", context)
        subject, key = certificates.read_request(request.certificate_request)
        signer = self.authority
        leaf = certificates.leaf(subject, key, signer.certificate, signer.key, days=9)
        signed = identity_pb2.SignedCertificate(chain=certificates.pem_of([leaf]), trust=self.trust)
        return identity_pb2.RenewCertificateResponse(certificate=signed)

    async def note(self, call: str, context: Any) -> None:
        for pem in context.auth_context().get("x509_pem_cert", ()):
            serial = x509.load_pem_x509_certificate(pem).serial_number
            self.serials.setdefault(call, []).append(serial)
        if self.refuse is not None:
            await abort(context, self.refuse)

    async def check(self, request: Any, context: Any) -> None:
        if request.session.id not in self.known:
            await abort(context, FednotError(Reason.UNKNOWN_SESSION, "no such session"))

    async def next(self, kind: type[Any]) -> Any:
        found = await asyncio.wait_for(self.seen.get(), WAIT)
        assert isinstance(found, kind), found
        return found

    async def destroy(self, order_id: str, generation: int) -> None:
        order = pb.DestroyWork(order_id=order_id, generation=generation, job_id="job-1")
        await self.work.put(pb.PollWorkResponse(destroy=order))

    async def forget(self, order_id: str, tombstone: str, **scope: Any) -> None:
        order = pb.ForgetWork(order_id=order_id, tombstone=tombstone, job_id="job-1", **scope)
        await self.work.put(pb.PollWorkResponse(forget=order))

    async def profile(self, work_id: str, job_id: str = "job-1", **forgotten: Any) -> None:
        order = pb.ProfileWork(
            work_id=work_id,
            version=1,
            job_id=job_id,
            forgotten=pb.ForgottenData(**forgotten),
            groups=[1, 2, 3, 4],
            max_examples=1000,
            seed=5,
        )
        await self.work.put(pb.PollWorkResponse(profile=order))

    async def train(self, work_id: str, **config: float) -> None:
        work = pb.TrainWork(
            work_id=work_id, round=3, phase=pb.ROUND_PHASE_RECOVERY, version=1, seed=11
        )
        work.config.update({"local_epochs": 2.0} | config)
        await self.work.put(pb.PollWorkResponse(train=work))


async def abort(context: Any, error: FednotError) -> None:
    details = (("grpc-status-details-bin", to_status(error).SerializeToString()),)
    await context.abort(grpc.StatusCode[error.code], error.message, trailing_metadata=details)


class Stage:
    """The play's server, which can be stopped and started again on its port, and the clients.

    Over plaintext; once `secured` is called, over TLS, with the identity of c7 in `identity`.
    """

    def __init__(self, path: Path, task: str = TASK) -> None:
        self.authority = HandMadeAuthority()
        self.identity = path / "identity"
        self.credentials: grpc.ServerCredentials | None = None
        self.path = path
        self.task_file = path / "tiny.py"
        self.task_file.write_text(task)
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.task = load_task(f"{self.task_file}:TinyTask")
        model = self.task.build_model()
        self.manifest = Manifest.of(model)
        flat = flatten_module(model, self.manifest)
        self.play = Play(flat, self.manifest, self.authority)
        self.processes: list[ClientProcess] = []
        self.port = 0

    async def open(self) -> None:
        self.server = aio.server(options=[("grpc.so_reuseport", 0)])
        add_FederationServiceServicer_to_server(self.play, self.server)
        add_IdentityServiceServicer_to_server(self.play, self.server)
        add_DeletionServiceServicer_to_server(self.play, self.server)
        address = f"127.0.0.1:{self.port}"
        if self.credentials is None:
            self.port = self.server.add_insecure_port(address)
        else:
            self.port = self.server.add_secure_port(address, self.credentials)
        await self.server.start()

    def secured(self, authority: HandMadeAuthority | None = None) -> None:
        """Serves over TLS from the next `open` on, with a certificate of an authority."""
        own = (authority or self.authority).server(self.path / "server")
        pair = [(own.private_key, own.chain)]
        trust = self.authority.trust
        self.credentials = grpc.ssl_server_credentials(pair, trust, require_client_auth=True)

    def issue(self, **more: Any) -> int:
        """Writes a new identity of c7; gives its serial number."""
        return self.authority.identity(self.identity, **more).certificate.serial_number

    async def client(self, *more: str) -> ClientProcess:
        """Starts the client c7."""
        arguments = ["--server", f"127.0.0.1:{self.port}", "--poll-wait", "0.3"]
        if self.credentials is None:
            arguments += ["--insecure", "--name", "c7"]
        else:
            arguments += ["--identity", str(self.identity)]
        arguments += ["--task", f"{self.task_file}:TinyTask", "--http-address", ""]
        arguments += ["--state-dir", str(self.path / "state"), "--device", "cpu", *more]
        log = self.path / f"client-{len(self.processes)}.log"
        process = await asyncio.to_thread(ClientProcess, arguments, log)
        self.processes.append(process)
        return process

    def trained(self) -> torch.Tensor:
        """What a client must send: seed 11, two epochs, to the last bit."""
        model = self.task.build_model()
        load_into(model, self.play.flat, self.manifest)
        context = TrainContext(torch.device("cpu"), 11, 3, "recovery", {"local_epochs": 2.0})
        self.task.train(model, self.task.train_data(), context)
        return difference(flatten_module(model, self.manifest), self.play.flat, self.manifest)

    async def close(self) -> None:
        for process in self.processes:
            await asyncio.to_thread(process.kill)
        await self.server.stop(None)


async def terminated(process: ClientProcess) -> tuple[int | None, str]:
    """Sends SIGTERM, and waits less long than any work or poll of a test would last."""
    process.terminate()
    return await process.ended(ENDING)


async def until(holds: Callable[[], bool], pause: Callable[[float], Awaitable[None]]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():
            await pause(0.02)
