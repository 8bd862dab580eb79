"""The real client process against a small server that the test plays, over a loopback socket."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from google.protobuf import duration_pb2
from grpc import aio

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.rpc_errors import to_status
from fednot.task_loading import load_task
from fednot.tensors import as_bytes, difference, flatten_module, load_into, views
from fednot.training import TrainContext
from fednot.v1 import federation_pb2 as pb
from fednot.v1 import model_pb2
from fednot.v1.federation_pb2_grpc import (
    FederationServiceServicer,
    add_FederationServiceServicer_to_server,
)
from fednot.wire import Receiver, checksum, chunks, manifest_of

WAIT = 30.0

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
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
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
        if context.config.get("deaf"):
            time.sleep(60)
        return super().train(model, data, context)
"""


class Play(FederationServiceServicer):
    """A server by hand: the test queues work and reads what came back."""

    def __init__(self, flat: torch.Tensor, manifest: Manifest) -> None:
        self.flat, self.manifest = flat, manifest
        self.work: asyncio.Queue[pb.PollWorkResponse] = asyncio.Queue()
        self.seen: asyncio.Queue[Any] = asyncio.Queue()
        self.sessions: list[str] = []
        self.known: set[str] = set()
        self.standing = True
        self.refuse_join: FednotError | None = None
        self.beats: list[pb.HeartbeatRequest] = []
        self.cut_downloads = 0

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:
        if self.refuse_join:
            await abort(context, self.refuse_join)
        session = f"s{len(self.sessions)}"
        self.sessions.append(session)
        self.known.add(session)
        await self.seen.put(request)
        interval = duration_pb2.Duration(nanos=100_000_000)
        return pb.JoinResponse(session_id=session, heartbeat_interval=interval)

    async def PollWork(self, request: Any, context: Any) -> pb.PollWorkResponse:
        await self.check(request, context)
        with suppress(TimeoutError):
            return await asyncio.wait_for(self.work.get(), 0.2)
        return pb.PollWorkResponse()

    async def DownloadModel(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.check(request, context)
        payload = as_bytes(self.flat)
        header = model_pb2.ModelHeader(
            version=1, manifest_digest=self.manifest.digest, num_bytes=len(payload)
        )
        yield pb.DownloadModelResponse(header=header)
        if self.cut_downloads:
            self.cut_downloads -= 1
            return
        for chunk in chunks(payload):
            yield pb.DownloadModelResponse(chunk=chunk)
        trailer = model_pb2.StreamTrailer(xxh3_128=checksum(payload))
        yield pb.DownloadModelResponse(trailer=trailer)

    async def UploadUpdate(self, requests: Any, context: Any) -> Any:
        header = (await anext(requests)).header
        receiver = Receiver(self.manifest, header.num_bytes)
        async for request in requests:
            if request.HasField("trailer"):
                await self.seen.put((header, receiver.finish(request.trailer.xxh3_128)))
            else:
                receiver.add(request.chunk)
        return pb.UploadUpdateResponse(round=3)

    async def ReportEvaluation(self, request: Any, context: Any) -> Any:
        await self.seen.put(request)
        return pb.ReportEvaluationResponse()

    async def ReportFailure(self, request: Any, context: Any) -> Any:
        await self.seen.put(request)
        return pb.ReportFailureResponse()

    async def Heartbeat(self, request: Any, context: Any) -> pb.HeartbeatResponse:
        await self.check(request, context)
        self.beats.append(request)
        return pb.HeartbeatResponse(work_stands=self.standing)

    async def Leave(self, request: Any, context: Any) -> pb.LeaveResponse:
        await self.seen.put(request)
        return pb.LeaveResponse()

    async def check(self, request: Any, context: Any) -> None:
        if request.session.id not in self.known:
            await abort(context, FednotError(Reason.UNKNOWN_SESSION, "no such session"))

    async def next(self, kind: type[Any]) -> Any:
        found = await asyncio.wait_for(self.seen.get(), WAIT)
        assert isinstance(found, kind), found
        return found

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
    """The play's server, which can be stopped and started again on its port, and the clients."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.task_file = path / "tiny.py"
        self.task_file.write_text(TASK)
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.task = load_task(f"{self.task_file}:TinyTask")
        model = self.task.build_model()
        self.manifest = Manifest.of(model)
        self.play = Play(flatten_module(model, self.manifest), self.manifest)
        self.processes: list[asyncio.subprocess.Process] = []
        self.port = 0

    async def open(self) -> None:
        self.server = aio.server(options=[("grpc.so_reuseport", 0)])
        add_FederationServiceServicer_to_server(self.play, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    async def client(self, *more: str) -> asyncio.subprocess.Process:
        arguments = ["--name", "c7", "--server", f"127.0.0.1:{self.port}", "--poll-wait", "0.3"]
        arguments += ["--task", f"{self.task_file}:TinyTask", "--http-address", ""]
        arguments += ["--state-dir", str(self.path / "state"), "--device", "cpu", *more]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "client", "--insecure", *arguments),
            stderr=asyncio.subprocess.PIPE,
            env={key: value for key, value in os.environ.items() if "FEDNOT" not in key},
        )
        self.processes.append(process)
        return process

    async def close(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
                await asyncio.wait_for(process.communicate(), WAIT)
        await self.server.stop(None)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    await stage.open()
    yield stage
    await stage.close()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    _, log = await asyncio.wait_for(process.communicate(), WAIT)
    return process.returncode, log.decode()


async def terminated(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(process.communicate(), 8)
    return process.returncode, log.decode()


async def until(holds: Callable[[], bool], pause: Callable[[float], Awaitable[None]]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():
            await pause(0.02)


async def test_joins_trains_evaluates_reports_failure_and_leaves(stage: Stage) -> None:
    play = stage.play
    play.cut_downloads = 1
    process = await stage.client()
    joined = await play.next(pb.JoinRequest)
    assert (joined.client, joined.device) == ("c7", "cpu")
    assert (joined.num_train_examples, joined.num_test_examples) == (40, 16)
    assert manifest_of(joined.manifest) == stage.manifest

    await play.train("w1")
    header, update = await play.next(tuple)
    assert (header.work_id, header.num_examples, header.base_version) == ("w1", 40, 1)
    assert torch.equal(update, trained_here(stage))

    await play.work.put(pb.PollWorkResponse(evaluate=pb.EvaluateWork(work_id="w2", version=1)))
    scores = await play.next(pb.ReportEvaluationRequest)
    assert (scores.work_id, scores.num_examples) == ("w2", 16)
    assert set(scores.metrics) == {"loss", "accuracy", "chance"}

    await play.train("w3", fail=1.0)
    failure = await play.next(pb.ReportFailureRequest)
    assert (failure.work_id, failure.message) == ("w3", "RuntimeError: the disk is gone")

    await play.train("w4")
    assert (await play.next(tuple))[0].work_id == "w4"
    code, log = await terminated(process)
    assert (await play.next(pb.LeaveRequest)).session.id == "s0"
    assert code == 0, log
    assert all(" client: " in line for line in log.splitlines()), log


def trained_here(stage: Stage) -> torch.Tensor:
    """Seed 11, two epochs: what the client must send, to the last bit."""
    task, model = stage.task, stage.task.build_model()
    load_into(model, stage.play.flat, stage.manifest)
    context = TrainContext(torch.device("cpu"), 11, 3, "recovery", {"local_epochs": 2.0})
    task.train(model, task.train_data(), context)
    update = difference(flatten_module(model, stage.manifest), stage.play.flat, stage.manifest)
    assert any(bool(view.any()) for view in views(update, stage.manifest).values())
    return update


async def test_a_heartbeat_cancels_training_and_the_next_work_is_done(stage: Stage) -> None:
    play = stage.play
    process = await stage.client()
    await play.next(pb.JoinRequest)
    await play.train("w1", linger=1.0)
    await until(lambda: any(beat.work_id == "w1" for beat in play.beats), asyncio.sleep)
    play.standing = False
    await until(lambda: play.beats[-1].work_id == "", asyncio.sleep)
    play.standing = True
    await play.train("w2")
    assert (await play.next(tuple))[0].work_id == "w2"
    code, log = await terminated(process)
    assert code == 0
    assert "dropped recovery round 3" in log


async def test_an_unknown_session_and_a_restarted_server_are_survived(stage: Stage) -> None:
    play = stage.play
    process = await stage.client()
    await play.next(pb.JoinRequest)
    play.known.clear()
    assert (await play.next(pb.JoinRequest)).client == "c7"

    await stage.server.stop(None)
    play.known.clear()
    await asyncio.sleep(1)
    await stage.open()
    assert (await play.next(pb.JoinRequest)).client == "c7"
    await play.train("w1")
    assert (await play.next(tuple))[0].session.id == "s2"
    code, log = await terminated(process)
    assert code == 0
    assert log.count("waiting for the server at") == 1, log
    assert log.count("reached the server at") == 1, log


async def test_a_barred_client_says_so_once_and_still_evaluates(stage: Stage) -> None:
    play = stage.play
    process = await stage.client()
    await play.next(pb.JoinRequest)
    barred = pb.PollWorkResponse(barred=pb.Barred(message="it was forgotten", request_id="r1"))
    for _ in range(3):
        await play.work.put(barred)
    await play.work.put(pb.PollWorkResponse(evaluate=pb.EvaluateWork(work_id="w1", version=1)))
    assert (await play.next(pb.ReportEvaluationRequest)).work_id == "w1"
    code, log = await terminated(process)
    assert code == 0
    assert log.count("it was forgotten") == 1, log


async def test_a_signal_ends_even_work_that_ignores_it(stage: Stage) -> None:
    process = await stage.client()
    await stage.play.next(pb.JoinRequest)
    await stage.play.train("w1", deaf=1.0)
    await until(lambda: any(beat.work_id for beat in stage.play.beats), asyncio.sleep)
    await asyncio.sleep(0.2)
    code, log = await terminated(process)
    await stage.play.next(pb.LeaveRequest)
    assert code == 0, log


async def test_a_final_refusal_ends_the_process_with_the_servers_sentence(stage: Stage) -> None:
    stage.play.refuse_join = FednotError(Reason.MANIFEST_MISMATCH, "0.weight is missing")
    code, log = await ended(await stage.client())
    assert code == 3
    assert "0.weight is missing Give server and client the same Task." in log


async def test_a_stopped_client_without_a_server_ends_at_once(stage: Stage) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    process = await stage.client("--server", f"127.0.0.1:{free}")
    assert process.stderr is not None
    line = (await asyncio.wait_for(process.stderr.readline(), WAIT)).decode()
    assert f"waiting for the server at 127.0.0.1:{free}" in line
    code, log = await terminated(process)
    assert code == 0, log
