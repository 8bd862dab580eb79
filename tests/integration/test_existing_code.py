"""Code that was there before fednot: a Flower client and a training script, in real processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.federation import CALL, ROOT, LocalFederation, refusal

from fednot.errors import Reason
from fednot.v1 import deletion_pb2, operator_pb2

FLOWER = f"{ROOT / 'examples' / 'flower_client.py'}:make_task"
LOOP = str(ROOT / "examples" / "training_loop.py")
TASK = f"{ROOT / 'tests' / 'support' / 'small_digits.py'}:SmallDigits"


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path) as local:
        local.start_server()
        yield local


def start(local: LocalFederation, index: int, task: str, *arguments: str) -> None:
    """Starts a client of another Task than the federation of tests has."""
    words = [f"--task-arg={argument}" for argument in arguments]
    local.start_plain_client(index, "--task", task, *words)


def test_a_flower_client_trains_and_is_forgotten_but_not_its_samples(
    federation: LocalFederation,
) -> None:
    for index in range(3):
        start(federation, index, FLOWER, f"part={index}", "parts=10")
    federation.await_connected(3)
    run = federation.train(5)
    assert run.state == operator_pb2.RUN_STATE_COMPLETED
    assert federation.rounds()[-1].metrics["accuracy"] > 0.5
    scope = deletion_pb2.Scope(samples=deletion_pb2.SampleScope(client="c0", subject="one"))
    for refused in (scope, deletion_pb2.Scope(class_label=7)):
        request = deletion_pb2.UnlearnRequest(request_id="no", scope=refused)
        error = refusal(lambda r=request: federation.deletions.Unlearn(r, timeout=CALL))
        assert error.reason is Reason.UNSUPPORTED_SCOPE
        assert "Flower client reads its data itself" in error.message
    federation.unlearn("c0", "bye", min_rounds=1, max_rounds=2)
    assert federation.await_job("bye").job.phase == deletion_pb2.JOB_PHASE_COMPLETED


def test_a_script_receives_trains_and_sends(federation: LocalFederation) -> None:
    for index in range(2):
        start(federation, index, LOOP, f"--part={index}/10")
    federation.await_connected(2)
    run = federation.train(5)
    assert run.state == operator_pb2.RUN_STATE_COMPLETED
    ended = federation.rounds()[-1]
    assert len(ended.cohort) == 2
    assert not ended.missing
    federation.kill("c0", signal.SIGTERM)
    assert "the loop has ended" in federation.whole_log("c0")
    assert ended.metrics["accuracy"] > 0.5
