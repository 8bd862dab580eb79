"""A real client process under differential privacy: what it tells, keeps and refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from support.played_server import TASK, Stage, terminated, until
from support.ports import free_port

from fednot.privacy.accounting import epsilon
from fednot.privacy.costs import Noise, Steps
from fednot.v1 import federation_pb2 as pb

BUILT_IN = TASK.partition("    def train(")[0]
RATE = 8 / 40
"""The Task has 40 samples in batches of 8; the orders are for two epochs, hence ten steps."""
ONE = epsilon([Steps(Noise(1.5, 1.0), RATE, 10)], 1e-5)
TWO = epsilon([Steps(Noise(1.5, 1.0), RATE, 20)], 1e-5)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, BUILT_IN)
    await stage.open()
    yield stage
    await stage.close()


async def test_a_client_trains_until_its_epsilon_is_spent_and_then_evaluates(stage: Stage) -> None:
    """The limit lies between what one round spends and what two do; a restart changes nothing."""
    play, limit = stage.play, (ONE + TWO) / 2
    flags = ("--dp-noise", "1.5", "--dp-epsilon", f"{limit:.4f}")
    process = await stage.client(*flags)
    await play.next(pb.JoinRequest)
    await until(lambda: bool(play.beats), asyncio.sleep)
    assert (play.beats[0].privacy.steps, play.beats[0].privacy.epsilon) == (0, 0)

    await play.train("w1")
    header, update = await play.next(tuple)
    assert (header.work_id, dict(header.metrics)) == ("w1", {})
    assert update.any()
    kept = json.loads((stage.path / "state" / "privacy.json").read_text())
    assert kept["taken"] == [{"noise": 1.5, "clip": 1.0, "rate": RATE, "steps": 10}]
    await until(lambda: play.beats[-1].privacy.steps == 10, asyncio.sleep)
    told = play.beats[-1].privacy
    assert told.epsilon == pytest.approx(ONE)
    assert (told.delta, told.epsilon_limit) == (1e-5, pytest.approx(limit, abs=1e-4))

    process.kill()
    port = free_port()
    process = await stage.client(*flags, "--http-address", f"127.0.0.1:{port}")
    await play.next(pb.JoinRequest)
    downloads = play.downloads
    await play.train("w2")
    failure = await play.next(pb.ReportFailureRequest)
    assert failure.work_id == "w2"
    assert failure.message.startswith(f"PRIVACY_SPENT: this client has spent epsilon {ONE:.3f}")
    assert play.downloads == downloads, "what it may not train on is not fetched"
    await process.said("was refused: this client has spent")
    health = (await asyncio.to_thread(health_of, port))["detail"]
    assert health["privacy"].endswith("so it is refused"), health
    metrics = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/metrics").read())
    shown = next(
        line
        for line in metrics.decode().splitlines()
        if line.startswith("fednot_client_privacy_epsilon ")
    )
    assert float(shown.split()[1]) == pytest.approx(ONE)

    await play.work.put(pb.PollWorkResponse(evaluate=pb.EvaluateWork(work_id="w3", version=1)))
    assert (await play.next(pb.ReportEvaluationRequest)).work_id == "w3"
    code, log = await terminated(process)
    assert code == 0, log


async def test_an_update_that_is_sent_again_is_spent_once(stage: Stage) -> None:
    """The server loses its sessions at the upload; the client joins again and sends it anew."""
    play = stage.play
    play.forget_at_upload = 1
    await stage.client("--dp-noise", "1.5", "--dp-epsilon", f"{ONE * 1.01:.4f}")
    await play.next(pb.JoinRequest)
    await play.train("w1")
    await play.next(pb.UpdateHeader)
    await play.next(pb.JoinRequest)
    await play.train("w1")
    assert (await play.next(tuple))[0].work_id == "w1"
    kept = json.loads((stage.path / "state" / "privacy.json").read_text())
    assert [each["steps"] for each in kept["taken"]] == [10]


async def test_noise_comes_too_late_after_training_without(stage: Stage) -> None:
    play = stage.play
    process = await stage.client()
    await play.next(pb.JoinRequest)
    await play.train("w1")
    await play.next(tuple)
    await terminated(process)
    code, log = await (await stage.client("--dp-noise", "1")).ended()
    assert code == 2
    assert "--dp-noise excludes earlier training without noise" in log


async def test_a_task_with_its_own_training_is_refused_at_the_start(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.open()
    code, log = await (await stage.client("--dp-noise", "1")).ended()
    assert code == 2
    assert "--dp-noise excludes a Task with a train() of its own (TinyTask)" in log
    await stage.close()


def health_of(port: int) -> dict[str, Any]:
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
            return dict(json.loads(answer.read()))
    except HTTPError as error:
        return dict(json.loads(error.read()))
