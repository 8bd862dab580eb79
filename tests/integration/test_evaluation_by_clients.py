"""A server without test data: the clients score the model, each by the number of its examples."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.federation import CALL, TASK, LocalFederation, eventually
from support.replay import assert_negated_exactly, stored, weighted_scores
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.v1 import deletion_pb2, operator_pb2

HOLDINGS = {0: 100, 1: 60, 2: 20}
RETAINED = {1: 60, 2: 20}
TOLERANCE = 0.9
COMPLETED = deletion_pb2.JOB_PHASE_COMPLETED


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Three clients with different numbers of test digits, after two rounds."""
    folder = tmp_path_factory.mktemp("scored")
    flags = ("--task-arg", "trace=no", "--task-arg", "server_test=no", "--min-clients", "2")
    with LocalFederation(folder, server_flags=flags) as found:
        found.start_server()
        _start_clients(found)
        assert found.train(2).rounds_done == 2, found.log("server")
        yield found


def test_a_rounds_metrics_are_the_clients_mean_by_examples(federation: LocalFederation) -> None:
    sizes = {f"c{index}": size for index, size in HOLDINGS.items()}
    assert {name: federation.client_info(name).num_test_examples for name in sizes} == sizes
    for row in federation.rounds()[:2]:
        expected = weighted_scores(stored(federation, row.result_version), HOLDINGS)
        assert _scores(row.metrics) == pytest.approx(expected, abs=1e-5)
        assert dict(federation.versions()[row.result_version].metrics) == dict(row.metrics)


def test_target_and_recovery_are_scored_by_the_retained_clients(
    federation: LocalFederation,
) -> None:
    """With a tolerance of 0.9 the first recovery round is enough, of ten that would be allowed."""
    base = federation.status().current
    scores = weighted_scores(stored(federation, base.number), RETAINED)

    federation.unlearn("c0", "forget-c0", min_rounds=1, max_rounds=10, tolerance=TOLERANCE)
    job = federation.await_job("forget-c0").job

    assert job.phase == COMPLETED, federation.log("server")
    assert job.base_version == base.number
    assert job.target_accuracy == pytest.approx(scores["accuracy"] - TOLERANCE, abs=1e-5)
    attempt = job.attempts[0]
    assert attempt.stop_reason == deletion_pb2.STOP_REASON_TARGET
    assert attempt.stopped_at == len(attempt.rounds) == 1
    expected = weighted_scores(stored(federation, attempt.rounds[0].version), RETAINED)
    assert _scores(attempt.rounds[0].metrics) == pytest.approx(expected, abs=1e-5)


def test_a_deletion_that_waits_for_its_evaluation_can_be_cancelled(
    federation: LocalFederation,
) -> None:
    """Nothing was changed yet, so the fence is lifted and the same version released again."""
    federation.kill("c2", signal.SIGTERM)
    released = federation.status().released
    federation.unlearn("c1", "undecided")
    sentence = "clients for the evaluation before a deletion: c2, last seen "
    eventually("it waits", lambda: sentence in federation.deletion("undecided").job.waiting_for)
    assert not federation.status().HasField("released")

    request = deletion_pb2.CancelDeletionRequest(request_id="undecided")
    cancelled = federation.deletions.CancelDeletion(request, timeout=CALL).deletion

    assert cancelled.job.phase == deletion_pb2.JOB_PHASE_CANCELLED
    assert not cancelled.job.base_version
    assert federation.status().released == released
    assert federation.client_info("c1").barred_by == ""
    run = federation.train(1, min_clients=1)
    assert run.state == operator_pb2.RUN_STATE_COMPLETED
    assert "c1" in federation.rounds()[-1].cohort


def test_a_server_of_a_model_file_trains_and_unlearns(tmp_path: Path) -> None:
    file = tmp_path / "initial.safetensors"
    made = CliRunner().invoke(app, ["model", "init", "--task", TASK, "--output", str(file)])
    assert made.exit_code == 0, made.output
    with LocalFederation(tmp_path, server_flags=("--model", str(file)), task=False) as federation:
        federation.start_server()
        _start_clients(federation)
        assert federation.train(1).rounds_done == 1
        base = stored(federation, federation.status().current.number)
        federation.hold.touch()
        federation.unlearn("c0", "forget-c0", min_rounds=1, max_rounds=1)
        eventually("recovery waits for c2", lambda: federation.status().round.updates == 1)
        start = stored(federation, federation.status().current.number)
        federation.release()

        job = federation.await_job("forget-c0").job

        assert job.phase == COMPLETED, federation.log("server")
        assert job.HasField("target_accuracy")
        assert list(job.attempts[0].tensors) == ["conv1.weight"]
        assert_negated_exactly(base, start, {"conv1.weight"})
        assert not job.attempts[0].warnings, "the file carries the traced layers"


def _scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """What evaluation found, without what training measured."""
    return {key: value for key, value in metrics.items() if not key.startswith("train_")}


def _start_clients(federation: LocalFederation) -> None:
    for index, size in HOLDINGS.items():
        federation.start_client(index, f"client_test={size}", held=index == 2)
    federation.release()
    federation.await_connected(len(HOLDINGS))
