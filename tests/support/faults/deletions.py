"""The main job of the matrix: two rounds, a deletion in the third, recovery, and the run's end."""

from __future__ import annotations

from support.faults.mortal import MortalFederation
from support.faults.witness import VersionKeeper
from support.federation import ENDED
from support.replay import MANIFEST, assert_close, assert_negated_exactly, mean_of_clients

from fednot.v1 import deletion_pb2, model_pb2, operator_pb2

REQUEST = "forget-c0"
TARGET = "c0"
FEW_ROUNDS = {"min_rounds": 1, "max_rounds": 2, "tolerance": 0.9}
"""A recovery that is content with little, so that the first attempt is the only one."""


def deletion_in_mid_round(federation: MortalFederation) -> None:
    """Whatever the server dies of: the job completes, and the model is what it must be."""
    with VersionKeeper(federation.state / "versions", federation.folder / "kept") as keeper:
        for index in range(3):
            federation.start_client(index, held=index > 0)
        federation.release()
        federation.await_clients("c0", "c1", "c2")
        federation.run_through(2)
        federation.hold.touch()
        federation.begin_run(1)
        federation.await_that("a round is in flight", lambda: is_in_flight(federation))
        federation.persist(lambda: federation.unlearn(TARGET, REQUEST, **FEW_ROUNDS))
        federation.release()
        ended = await_job(federation, REQUEST)
        run = federation.run_ended()
    assert (run.state, run.rounds_done) == (operator_pb2.RUN_STATE_COMPLETED, 1)
    assert_forgotten(federation, ended, keeper)


def is_in_flight(federation: MortalFederation) -> bool:
    """Whether a round runs that has the target's update, if the target takes part."""
    status = federation.status()
    if not status.HasField("round"):
        return False
    row = next(row for row in federation.rounds() if row.number == status.round.round)
    return TARGET not in row.cohort or status.round.updates > 0


def await_job(federation: MortalFederation, request_id: str) -> deletion_pb2.Deletion:
    """The deletion once its job has ended."""

    def ended() -> deletion_pb2.Deletion | None:
        found = federation.deletion(request_id)
        return found if found.job.phase in ENDED else None

    found: deletion_pb2.Deletion = federation.await_that(f"{request_id} ends", ended)
    return found


def assert_forgotten(
    federation: MortalFederation, ended: deletion_pb2.Deletion, keeper: VersionKeeper
) -> None:
    """The job completed by exactly one negation, and by nothing of the target's."""
    job, versions = ended.job, federation.versions()
    assert job.phase == deletion_pb2.JOB_PHASE_COMPLETED, job
    assert len(federation.sightings.jobs) == 1, "a repeated request is one request"
    attempt = job.attempts[-1]
    base, start = versions[job.base_version], versions[attempt.start_version]
    assert list(attempt.tensors) == ["conv1.weight"]
    assert_negated_exactly(
        keeper.model(base.sha256), keeper.model(start.sha256), set(attempt.tensors)
    )
    assert start.generation == base.generation + 1
    made = [v.number for v in versions.values() if v.origin == model_pb2.VERSION_ORIGIN_UNLEARNING]
    assert made == [each.start_version for each in job.attempts]
    _assert_the_target_took_no_part(federation, ended)
    _assert_recovered_from(federation, attempt, keeper)
    assert job.released_version
    assert federation.status().released.number >= job.released_version
    gone = {version.number for version in job.destroyed}
    assert {base.number, start.number} <= gone
    for version in job.destroyed:
        assert not federation.version_file(version.sha256).exists()


def _assert_the_target_took_no_part(
    federation: MortalFederation, ended: deletion_pb2.Deletion
) -> None:
    """The base is what was current when the request was answered, whatever the clock says."""
    base = federation.versions()[ended.job.base_version]
    later = [row for row in federation.rounds() if row.number > base.round]
    assert [row for row in later if TARGET in row.cohort and row.result_version] == []
    recovery = [row for row in later if row.job_id == ended.job.id]
    assert recovery
    assert [row for row in recovery if TARGET in row.cohort] == []
    assert federation.client_info(TARGET).barred_by == REQUEST


def _assert_recovered_from(
    federation: MortalFederation, attempt: deletion_pb2.Attempt, keeper: VersionKeeper
) -> None:
    """The first recovery round is the mean of what c1 and c2 train from the negated version.

    Had the target's update been in the sum, the result would differ by its share of a third.
    """
    versions = federation.versions()
    first = attempt.rounds[0]
    row = next(row for row in federation.rounds() if row.number == first.round)
    assert list(row.cohort) == ["c1", "c2"]
    given = keeper.model(versions[attempt.start_version].sha256)
    expected = mean_of_clients(given, row, (1, 2))
    assert_close(keeper.model(versions[first.version].sha256), expected)
    assert expected.numel() == MANIFEST.nbytes
