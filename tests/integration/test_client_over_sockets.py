"""The real client process against a small server that the test plays, over a loopback socket."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from support.played_server import Stage, terminated, until

from fednot.errors import FednotError, Reason
from fednot.tensors import views
from fednot.v1 import federation_pb2 as pb
from fednot.wire import manifest_of


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    await stage.open()
    yield stage
    await stage.close()


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
    assert torch.equal(update, stage.trained())
    assert any(bool(view.any()) for view in views(update, stage.manifest).values())

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
    assert all(json.loads(line)["logger"] == "client" for line in log.splitlines()), log


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
    await process.said("waiting for the server at")
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


async def test_a_busy_server_is_told_of_the_end(stage: Stage) -> None:
    process = await stage.client()
    await stage.play.next(pb.JoinRequest)
    await process.said("joined 127.0.0.1")
    stage.play.busy_at_leave = 2.5
    code, log = await terminated(process)
    await stage.play.next(pb.LeaveRequest)
    assert code == 0, log
    assert "left 127.0.0.1" in log


async def test_a_final_refusal_ends_the_process_with_the_servers_sentence(stage: Stage) -> None:
    stage.play.refuse_join = FednotError(Reason.MANIFEST_MISMATCH, "0.weight is missing")
    code, log = await (await stage.client()).ended()
    assert code == 3
    assert "0.weight is missing. Give server and client the same Task." in log


async def test_a_stopped_client_without_a_server_ends_at_once(stage: Stage) -> None:
    with socket.socket() as silent:  # holds its port and does not listen on it
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        process = await stage.client("--server", address)
        await process.said(f"waiting for the server at {address}")
        code, log = await terminated(process)
    assert code == 0, log
