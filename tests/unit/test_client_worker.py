"""The worker thread, the notice of a bar, metrics at zero, and a run's config."""

import asyncio
import logging
import threading
import time

import pytest
from google.protobuf import struct_pb2
from prometheus_client import CollectorRegistry

from client.barring import Barring
from client.metrics import OUTCOMES, PHASES, ClientMetrics
from client.orders import numbers
from client.worker import MAX_SENTENCE, Worker, WorkFailedError, sentence
from fednot.training import WorkCancelledError
from fednot.v1 import federation_pb2


def raising(error: BaseException) -> None:
    raise error


async def test_a_value_and_a_cancellation_pass_through() -> None:
    worker = Worker()
    assert await worker.run(lambda: threading.current_thread().name) == "fednot-work"
    with pytest.raises(WorkCancelledError):
        await worker.run(lambda: raising(WorkCancelledError("over")))
    assert not worker.busy


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("a\n  b"), "ValueError: a b"),
        (StopIteration(), "StopIteration"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
async def test_whatever_work_raises_becomes_one_sentence(
    error: BaseException, expected: str
) -> None:
    with pytest.raises(WorkFailedError, match=f"^{expected}$"):
        await Worker().run(lambda: raising(error))


def test_a_sentence_has_a_limit() -> None:
    assert len(sentence(ValueError("x" * 1000))) == MAX_SENTENCE


async def test_two_pieces_that_wait_run_one_after_the_other() -> None:
    worker, at_once, most = Worker(), list[int](), list[int]()

    def slow() -> None:
        at_once.append(1)
        time.sleep(0.05)
        most.append(len(at_once))
        at_once.pop()

    async with asyncio.timeout(10):
        await asyncio.gather(*(worker.run(slow) for _ in range(4)))
    assert most == [1, 1, 1, 1]
    assert not worker.busy


async def test_two_pieces_never_run_at_once() -> None:
    worker, release, order = Worker(), threading.Event(), list[str]()

    def slow() -> None:
        release.wait(10)
        order.append("slow")

    first = asyncio.create_task(worker.run(slow))
    await asyncio.sleep(0.05)
    first.cancel()
    second = asyncio.create_task(worker.run(lambda: order.append("next")))
    assert not await worker.stopped(0.05)
    release.set()
    await asyncio.wait_for(second, 10)
    assert order == ["slow", "next"]
    assert await worker.stopped(0.05)


def test_a_bar_is_logged_once_and_can_be_lifted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    registry = CollectorRegistry()
    forgotten: list[str] = []
    barring = Barring(ClientMetrics(registry), lambda: forgotten.append("all"))
    barring.lifted()
    for request in ("r1", "r1", "r2"):
        barring.told(federation_pb2.Barred(message="forgotten", request_id=request))
    assert registry.get_sample_value("fednot_client_barred") == 1
    barring.lifted()
    assert registry.get_sample_value("fednot_client_barred") == 0
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "WARNING", "INFO"]
    assert forgotten == ["all", "all"], "what encodings left out is destroyed at each request"


def test_known_labels_begin_at_zero_and_the_device_is_one() -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    for phase in PHASES:
        for outcome in OUTCOMES:
            labels = {"phase": phase, "outcome": outcome}
            assert registry.get_sample_value("fednot_client_rounds_total", labels) == 0
    metrics.device("cuda:0", degraded=False)
    metrics.device("cpu", degraded=True)
    metrics.moved("upload", 7)
    text = metrics.render()[0].decode()
    assert 'fednot_client_device_info{device="cpu"} 1.0' in text
    assert "cuda:0" not in text
    assert "fednot_client_degraded 1.0" in text
    assert 'fednot_client_transfer_bytes_total{direction="upload"} 7.0' in text
    assert 'fednot_client_transfer_bytes_total{direction="download"} 0.0' in text
    assert "fednot_client_build_info" in text


def test_a_config_is_numbers_only() -> None:
    config = struct_pb2.Struct()
    config.update({"local_epochs": 2, "learning_rate": 0.1})
    assert numbers(config) == {"local_epochs": 2.0, "learning_rate": 0.1}
    config.update({"optimiser": "adam"})
    with pytest.raises(WorkFailedError, match="optimiser"):
        numbers(config)
