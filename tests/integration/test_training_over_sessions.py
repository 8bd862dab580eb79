"""Training in hand when a session is lost: it goes on, and its update is sent in the next one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from support.client_process import WAIT, ClientProcess
from support.played_server import TASK, Stage, terminated, until

from client.__main__ import run
from client.encoder import Encoder
from client.own_data import OwnData
from client.settings import ClientSettings
from client.startup import prepare
from client.worker import Worker
from fednot.codecs import codec_of
from fednot.errors import FednotError, Reason
from fednot.tensors import as_bytes
from fednot.tombstones import Tombstones
from fednot.v1 import federation_pb2 as pb
from fednot.v1 import model_pb2

OVERTAKEN = 2.0

HELD = """
from pathlib import Path

class TinyTask(TinyTask):
    def train(self, model, data, context):
        while Path(__file__).with_name("hold").exists():
            time.sleep(0.01)
        result = super().train(model, data, context)
        Path(__file__).with_name("trained").touch()
        return result
"""
"""Trains once there is no file `hold` beside it, deaf until then, and touches `trained`."""


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, TASK + HELD)
    await stage.open()
    yield stage
    await stage.close()


async def joined(stage: Stage, *more: str) -> ClientProcess:
    process = await stage.client(*more)
    await stage.play.next(pb.JoinRequest)
    return process


async def at_work(stage: Stage, work_id: str) -> None:
    beats = stage.play.beats
    await until(lambda: any(beat.work_id == work_id for beat in beats), asyncio.sleep)


async def test_training_goes_on_when_the_session_is_forgotten(stage: Stage) -> None:
    play, process, hold = stage.play, await joined(stage), stage.path / "hold"
    hold.touch()
    await play.train("w1")
    await process.said("training on version 1")
    play.known.clear()
    await play.next(pb.JoinRequest)
    await play.train("w1")
    await process.said("goes on in this session")
    hold.unlink()
    header, _ = await play.next(tuple)
    assert (header.work_id, header.session.id, play.downloads) == ("w1", "s1", 1)
    code, log = await terminated(process)
    assert code == 0, log
    assert log.count("training on version 1") == 1, log
    assert log.count("goes on in this session") == 1, log


async def test_training_ends_while_the_server_is_away_and_is_sent_to_the_next(stage: Stage) -> None:
    play, process, hold = stage.play, await joined(stage), stage.path / "hold"
    hold.touch()
    await play.train("w1")
    await process.said("training on version 1")
    await stage.server.stop(None)
    play.known.clear()
    hold.unlink()
    await until((stage.path / "trained").exists, asyncio.sleep)
    await play.train("w1")
    await stage.open()
    await play.next(pb.JoinRequest)
    header, _ = await play.next(tuple)
    assert (header.work_id, header.session.id, play.downloads) == ("w1", "s1", 1)
    code, log = await terminated(process)
    assert code == 0, log
    assert log.count("training on version 1") == 1, log


async def test_training_is_dropped_when_other_work_comes(stage: Stage) -> None:
    play, process = stage.play, await joined(stage)
    await play.train("w1", linger=1.0)
    await at_work(stage, "w1")
    play.known.clear()
    await play.next(pb.JoinRequest)
    await play.train("w2")
    assert (await play.next(tuple))[0].work_id == "w2"
    code, log = await terminated(process)
    assert code == 0, log
    assert "dropped recovery round 3: other work is asked for" in log


async def test_training_is_dropped_when_the_client_is_barred(stage: Stage) -> None:
    play, process = stage.play, await joined(stage)
    await play.train("w1", linger=1.0)
    await at_work(stage, "w1")
    play.known.clear()
    await play.next(pb.JoinRequest)
    barred = pb.Barred(message="it was forgotten", request_id="r1")
    await play.work.put(pb.PollWorkResponse(barred=barred))
    await process.said("dropped recovery round 3: this client may not train")
    code, log = await terminated(process)
    assert code == 0, log


async def test_training_that_goes_on_is_cancelled_by_a_heartbeat(stage: Stage) -> None:
    play, process = stage.play, await joined(stage)
    await play.train("w1", linger=1.0)
    await at_work(stage, "w1")
    play.known.clear()
    await play.next(pb.JoinRequest)
    await play.train("w1", linger=1.0)
    await process.said("goes on in this session")
    play.standing = False
    await process.said("dropped recovery round 3: it no longer counts")
    await play.train("w2")
    play.standing = True
    assert (await play.next(tuple))[0].work_id == "w2"


async def test_an_upload_that_was_cut_with_its_session_is_sent_again(stage: Stage) -> None:
    """With top-k: what the first encoding left out must be kept once, and come with the next."""
    stage.play.codec = model_pb2.UPDATE_CODEC_TOP_K
    play = stage.play
    play.forget_at_upload = 1
    process = await joined(stage, "--codec", "topk")
    await play.train("w1")
    first = await play.next(pb.UpdateHeader)
    await play.next(pb.JoinRequest)
    await play.train("w1")
    header, payload = await play.next(tuple)
    assert (header.xxh3_128, header.session.id) == (first.xxh3_128, "s1")
    await play.train("w2")
    _, later = await play.next(tuple)
    assert_encoded(stage, [payload, later])
    code, log = await terminated(process)
    assert code == 0, log
    assert log.count("training on version 1") == 2, "w1 once and w2 once"


async def test_an_update_that_counted_and_was_lost_is_made_again_just_so(stage: Stage) -> None:
    """The server lost its sum: what the update left out must not come with the same update."""
    stage.play.codec = model_pb2.UPDATE_CODEC_TOP_K
    play = stage.play
    await joined(stage, "--codec", "topk")
    payloads = []
    for _ in range(2):
        await play.train("w1")
        payloads.append((await play.next(tuple))[1])
        play.known.clear()
        await play.next(pb.JoinRequest)
    assert torch.equal(*payloads)
    await play.train("w2")
    assert_encoded(stage, [payloads[0], (await play.next(tuple))[1]])


def assert_encoded(stage: Stage, payloads: list[torch.Tensor]) -> None:
    """That these are one encoding after another of the same update, each counted."""
    encoder, codec = Encoder(stage.manifest), codec_of("topk", 0.1)
    for payload in payloads:
        expected = encoder.encode(codec, stage.trained(), 0).payload
        encoder.counted()
        assert bytes(as_bytes(payload)) == bytes(expected)


async def test_what_is_held_is_destroyed_and_reported_on_order(stage: Stage) -> None:
    """A residual of w1, and w2's update with its payload, which no session took."""
    play = stage.play
    play.codec = model_pb2.UPDATE_CODEC_TOP_K
    process = await joined(stage, "--codec", "topk")
    await play.train("w1")
    await play.next(tuple)
    play.forget_at_upload = 1
    await play.train("w2")
    await play.next(pb.UpdateHeader)
    await play.next(pb.JoinRequest)
    await play.destroy("o1", generation=0)
    report = await play.next(pb.ReportDestructionRequest)
    assert (report.order_id, len(report.destroyed)) == ("o1", 0), "nothing is older than 0"
    await play.destroy("o2", generation=1)
    report = await play.next(pb.ReportDestructionRequest)
    kinds = sorted(cache.kind for cache in report.destroyed)
    assert (report.order_id, kinds) == ("o2", ["payload", "residual", "residual", "update"])
    sizes = {cache.kind: cache.num_bytes for cache in report.destroyed}
    assert sizes["update"] == stage.manifest.nbytes
    assert all(len(cache.sha256) == 64 for cache in report.destroyed)
    await play.destroy("o3", generation=1)
    assert not (await play.next(pb.ReportDestructionRequest)).destroyed
    await play.train("w2")
    _, payload = await play.next(tuple)
    assert_encoded(stage, [payload])
    code, log = await terminated(process)
    assert code == 0, log
    assert log.count("training on version 1") == 3, "the held update was not used"


async def test_a_barred_client_still_tells_what_it_destroyed(stage: Stage) -> None:
    """It destroyed its residual when it was barred, before the order came."""
    play = stage.play
    play.codec = model_pb2.UPDATE_CODEC_TOP_K
    await joined(stage, "--codec", "topk")
    await play.train("w1")
    await play.next(tuple)
    barred = pb.Barred(message="it was forgotten", request_id="r1")
    await play.work.put(pb.PollWorkResponse(barred=barred))
    await play.destroy("o1", generation=1)
    report = await play.next(pb.ReportDestructionRequest)
    assert [cache.kind for cache in report.destroyed] == ["residual", "residual"]


async def test_training_that_nobody_asks_for_again_is_dropped(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client runs in this process, so that a minute can be half a second."""
    monkeypatch.setattr("client.rounds.ASKED_AGAIN_SECONDS", 0.5)
    caplog.set_level(logging.INFO)
    play = stage.play
    async with in_this_process(stage):
        await play.next(pb.JoinRequest)
        await play.train("w1", linger=1.0)
        await until(lambda: "training on version 1" in caplog.text, asyncio.sleep)
        play.known.clear()
        await play.next(pb.JoinRequest)
        await until(lambda: "nobody has asked for it in 0 s" in caplog.text, asyncio.sleep)
        await play.train("w1")
        assert (await play.next(tuple))[0].work_id == "w1"
    assert caplog.text.count("training on version 1") == 2


async def test_training_is_dropped_when_no_session_can_be_had(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("client.rounds.HELD_SECONDS", 0.5)
    caplog.set_level(logging.INFO)
    async with in_this_process(stage):
        await stage.play.next(pb.JoinRequest)
        await stage.play.train("w1", linger=1.0)
        await at_work(stage, "w1")
        stage.play.refuse_join = FednotError(Reason.CLIENT_CONNECTED, "another process is c7")
        stage.play.known.clear()
        await until(lambda: "dropped recovery round 3: nobody" in caplog.text, asyncio.sleep)


async def test_a_count_that_an_order_overtakes_loses_no_session(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client counts beside its polls; what an order bars meanwhile is told by its report."""
    tombstones, counting, counts = Tombstones(stage.path / "state"), asyncio.Event(), OwnData.counts
    loop = asyncio.get_running_loop()

    def overtaken(own: OwnData) -> tuple[int, int]:
        loop.call_soon_threadsafe(counting.set)
        ends = time.monotonic() + OVERTAKEN
        while not tombstones.now().barred and time.monotonic() < ends:
            time.sleep(0.01)
        return counts(own)

    async with in_this_process(stage):
        await stage.play.next(pb.JoinRequest)
        monkeypatch.setattr(OwnData, "counts", overtaken)
        async with asyncio.timeout(WAIT):
            await counting.wait()
        await stage.play.forget("o1", "t1", class_label=1)
        assert (await stage.play.next(pb.ReportForgettingRequest)).order_id == "o1"
        beats = len(stage.play.beats)
        await until(lambda: len(stage.play.beats) > beats + 5, asyncio.sleep)
        assert len(stage.play.sessions) == 1


@asynccontextmanager
async def in_this_process(stage: Stage) -> AsyncIterator[None]:
    settings = ClientSettings.model_validate(
        {
            "server": f"127.0.0.1:{stage.port}",
            "insecure": True,
            "name": "c7",
            "task": f"{stage.task_file}:TinyTask",
            "http_address": "",
            "state_dir": stage.path / "state",
            "device": "cpu",
            "poll_wait": 0.3,
        }
    )
    prepared = prepare(settings)
    running = asyncio.create_task(run(prepared, Worker()))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        prepared.close()
