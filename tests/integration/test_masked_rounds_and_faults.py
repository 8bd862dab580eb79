"""Masked rounds of real processes over mutual TLS: what is cut, lost, restarted and deleted."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.federation import LocalFederation, eventually
from support.ports import free_port

from fednot.v1 import deletion_pb2, operator_pb2

PLAIN = ("--task-arg", "trace=no", "--accumulator", "float64", "--min-clients", "3")
MASKED = (*PLAIN, "--secure-aggregation", "--mask-wait", "20")
COMPLETED = operator_pb2.ROUND_OUTCOME_COMPLETED
DEGRADED = operator_pb2.ROUND_OUTCOME_DEGRADED
ABORTED = operator_pb2.ROUND_OUTCOME_ABORTED


@contextmanager
def clients(
    folder: Path, count: int, *flags: str, held: tuple[int, ...] = ()
) -> Iterator[LocalFederation]:
    with LocalFederation(folder, server_flags=flags) as federation:
        federation.start_server()
        for index in range(count):
            federation.start_client(index, held=index in held)
        federation.await_connected(count)
        yield federation


def model(federation: LocalFederation) -> dict[str, torch.Tensor]:
    """The tensors of the current version."""
    number = federation.status().current.sha256
    (file,) = (federation.state / "versions").rglob(f"*{number}*")
    with safe_open(file, "pt") as found:
        return {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118


def await_trainings(federation: LocalFederation, *names: str) -> None:
    for name in names:
        eventually(
            f"{name} trains",
            lambda name=name: "training on version" in federation.whole_log(name),
        )


def test_a_masked_round_is_the_plain_one_within_the_resolution(tmp_path: Path) -> None:
    """Four clients, range 16: half a step of 16 / (2^31 / 4) for each, 6e-8, and float32's own.

    The masked updates go over the data channel.
    """
    found = []
    for name, flags in (("plain", PLAIN), ("masked", MASKED)):
        data = ("--data-address", f"127.0.0.1:{free_port()}")
        with clients(tmp_path / name, 4, *flags, *data) as federation:
            assert federation.train(1).rounds_done == 1
            assert federation.status().secure_aggregation is (name == "masked")
            assert "data channel" not in federation.whole_log("c0"), "it could not be used"
            found.append(model(federation))
    plain, masked = found
    for name, tensor in plain.items():
        torch.testing.assert_close(masked[name].double(), tensor.double(), atol=5e-7, rtol=0)


@pytest.mark.long
def test_a_client_that_dies_in_training_is_left_out(tmp_path: Path) -> None:
    with clients(tmp_path, 5, *MASKED, held=(4,)) as federation:
        federation.start_training(1)
        await_trainings(federation, "c4")
        federation.kill("c4")
        assert federation.await_run().state == operator_pb2.RUN_STATE_COMPLETED
        (ended,) = federation.rounds()
        assert ended.outcome == DEGRADED
        assert [row.client for row in ended.missing] == ["c4"]


@pytest.mark.long
def test_below_the_threshold_a_round_has_no_result(tmp_path: Path) -> None:
    """Of four clients three must stay; two die."""
    with clients(tmp_path, 4, *MASKED, "--round-retries", "0", held=(2, 3)) as federation:
        federation.start_training(1)
        await_trainings(federation, "c2", "c3")
        federation.kill("c2")
        federation.kill("c3")
        assert federation.await_run().state == operator_pb2.RUN_STATE_FAILED
        assert federation.rounds()[0].outcome == operator_pb2.ROUND_OUTCOME_FAILED
        assert federation.status().current.number == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_masked_round_goes_on_after_a_restart_of_the_server(
    tmp_path: Path, how: signal.Signals
) -> None:
    """Under a new attempt; nobody trains twice."""
    with clients(tmp_path, 4, *MASKED, held=(3,)) as federation:
        federation.start_training(1)
        await_trainings(federation, "c0", "c1", "c2", "c3")
        federation.kill("server", how)
        federation.start_server()
        federation.await_connected(4)
        federation.release()
        assert federation.await_run().state == operator_pb2.RUN_STATE_COMPLETED
        (ended,) = federation.rounds()
        assert ended.outcome == COMPLETED, ended
        for index in range(4):
            assert federation.whole_log(f"c{index}").count("training on version") == 1


def test_a_deletion_in_mid_round_ends_it_unread(tmp_path: Path) -> None:
    with clients(tmp_path, 5, *MASKED, held=(4,)) as federation:
        federation.start_training(5)
        await_trainings(federation, "c0", "c1", "c2", "c3", "c4")
        federation.unlearn("c0", "r1", max_rounds=2)
        federation.release()
        first = eventually("the round is over", lambda: federation.rounds()[0].outcome)
        assert first in (ABORTED, operator_pb2.ROUND_OUTCOME_RUNNING)
        job = federation.await_job("r1").job
        assert job.phase == deletion_pb2.JOB_PHASE_COMPLETED, job
        aborted, *later = federation.rounds()
        assert aborted.outcome == ABORTED
        assert not any("c0" in row.cohort for row in later)
