"""Deletions that leave too few clients: accepted, fenced, waiting, and completed later."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.federation import CALL, LocalFederation, eventually, refusal

from fednot.errors import Reason
from fednot.v1 import deletion_pb2, operator_pb2

WAITS = "waiting for 1 of 2 clients for a recovery round"


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Two of three clients are deleted in the middle of a run that needs two clients."""
    flags = ("--min-clients", "2", "--task-arg", "trace=no")
    with LocalFederation(tmp_path_factory.mktemp("waiting"), server_flags=flags) as federation:
        federation.start_server()
        for index in range(3):
            federation.start_client(index, held=index == 2)
        federation.release()
        federation.await_connected(3)
        assert federation.train(1).rounds_done == 1, federation.log("server")
        federation.hold.touch()
        federation.start_training(2)
        eventually("c2 is waited for", lambda: federation.status().round.updates == 2)
        federation.unlearn("c0", "first", min_rounds=1, max_rounds=2)
        federation.unlearn("c1", "second", min_rounds=1, max_rounds=1)
        yield federation


def test_a_job_without_enough_clients_says_for_how_many_it_waits(
    waiting: LocalFederation,
) -> None:
    said = eventually("the first job waits", lambda: waiting.deletion("first").job.waiting_for)

    job = waiting.deletion("first").job
    status = waiting.status()
    assert said.startswith(WAITS)
    assert job.phase == deletion_pb2.JOB_PHASE_RECOVERING
    assert status.waiting_for.startswith(WAITS)
    assert status.deletion.request_id == "first"
    assert status.deletion.job.waiting_for.startswith(WAITS)
    assert status.open_deletions == 2
    assert status.clients_barred == 2
    assert not status.HasField("released")
    assert status.run.state == operator_pb2.RUN_STATE_ACTIVE, "it goes on after the jobs"


def test_the_second_deletion_names_the_job_that_goes_first(waiting: LocalFederation) -> None:
    first, second = waiting.deletion("first").job, waiting.deletion("second").job

    assert second.phase == deletion_pb2.JOB_PHASE_QUEUED
    assert second.waiting_for == f"waiting for {first.id}, which goes first"


def test_the_last_client_can_be_deleted_and_that_be_cancelled(waiting: LocalFederation) -> None:
    """With nobody left the job in front waits for two of two; cancelling lifts the new fence."""
    waiting.unlearn("c2", "third")
    assert waiting.client_info("c2").barred_by == "third"
    eventually(
        "both are waited for",
        lambda: waiting.status().waiting_for.startswith("waiting for 2 of 2 clients"),
    )

    cancelled = _cancel(waiting, "third")

    assert cancelled.job.phase == deletion_pb2.JOB_PHASE_CANCELLED
    assert cancelled.job.waiting_for == ""
    assert waiting.client_info("c2").barred_by == ""
    assert waiting.status().open_deletions == 2
    eventually("c2 counts again", lambda: waiting.status().waiting_for.startswith(WAITS))
    assert not waiting.status().HasField("released"), "two others are open"


def test_a_job_that_has_changed_the_model_cannot_be_cancelled(waiting: LocalFederation) -> None:
    eventually("the first job waits", lambda: waiting.deletion("first").job.waiting_for)

    refused = refusal(lambda: _cancel(waiting, "first"))

    assert refused.reason is Reason.NOT_CANCELLABLE
    assert "recovering" in refused.message
    assert waiting.client_info("c0").barred_by == "first"
    unknown = refusal(lambda: _cancel(waiting, "no such request"))
    assert unknown.reason is Reason.UNKNOWN_DELETION


def test_jobs_complete_in_turn_once_a_client_joins(waiting: LocalFederation) -> None:
    waiting.start_client(3)
    waiting.release()

    first, second = waiting.await_job("first"), waiting.await_job("second")

    for deletion in (first, second):
        assert deletion.job.phase == deletion_pb2.JOB_PHASE_COMPLETED, waiting.log("server")
        assert deletion.job.waiting_for == ""
    assert list(first.job.attempts[0].tensors) == ["conv1.weight"]
    _assert_no_layer_is_negated_twice(waiting, first.job, second.job)
    recovery = [row for row in waiting.rounds() if row.job_id and row.result_version]
    assert {tuple(row.cohort) for row in recovery} == {("c2", "c3")}
    assert second.job.history[1].at.ToNanoseconds() >= first.job.history[-1].at.ToNanoseconds()
    run = waiting.await_run()
    assert (run.state, run.rounds_done) == (operator_pb2.RUN_STATE_COMPLETED, 2)
    assert list(waiting.rounds()[-1].cohort) == ["c2", "c3"]
    status = waiting.status()
    assert status.released.number == status.current.number
    refused = refusal(lambda: _cancel(waiting, "second"))
    assert refused.reason is Reason.NOT_CANCELLABLE
    assert "has ended: completed" in refused.message


def _assert_no_layer_is_negated_twice(
    federation: LocalFederation, first: deletion_pb2.Job, second: deletion_pb2.Job
) -> None:
    negated_first = set(first.attempts[-1].tensors)
    for attempt in second.attempts:
        assert attempt.method == "retrain" or attempt.tensors
        assert not negated_first & set(attempt.tensors)
    for version in federation.versions().values():
        negated = list(version.negated_tensors)
        assert len(negated) == len(set(negated)), f"version {version.number}: {negated}"


def _cancel(federation: LocalFederation, request_id: str) -> deletion_pb2.Deletion:
    request = deletion_pb2.CancelDeletionRequest(request_id=request_id)
    return federation.deletions.CancelDeletion(request, timeout=CALL).deletion
