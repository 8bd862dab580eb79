"""The main job over real processes and sockets: train, forget a client over RPC, recover."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.federation import CALL, LocalFederation, eventually, refusal
from support.raw_client import RawClient
from support.small_digits import SmallDigits

from fednot.errors import Reason
from fednot.manifest import Manifest
from fednot.model_file import read
from fednot.tensors import difference, flatten_module, load_into, views
from fednot.training import TrainContext
from fednot.v1 import deletion_pb2, federation_pb2, operator_pb2
from server.aggregation import RunningAverage
from server.cohorts.cohort import WorkKind, WorkPlan
from server.records import RoundPhase, Version, VersionOrigin

LAST_ROUND_BEFORE = 2


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[LocalFederation]:
    """Three clients that have trained two rounds; c1 and c2 can be held back."""
    with LocalFederation(tmp_path, server_flags=("--min-clients", "2")) as federation:
        federation.start_server()
        for index in range(3):
            federation.start_client(index, held=index > 0)
        federation.release()
        federation.await_connected(3)
        assert federation.train(LAST_ROUND_BEFORE).rounds_done == LAST_ROUND_BEFORE
        yield federation


def test_a_deleted_clients_update_in_flight_never_reaches_the_model(
    trained: LocalFederation,
) -> None:
    trained.hold.touch()
    trained.start_training(3)
    eventually("c0's update is in", lambda: trained.status().round.updates == 1)
    before = trained.status().current.number

    accepted = trained.unlearn("c0", "forget-c0", max_rounds=1)

    status = trained.status()
    assert not status.HasField("released")
    assert list(accepted.aborted_rounds) == [3]
    released = operator_pb2.DownloadVersionRequest()
    refused = refusal(lambda: next(iter(trained.operator.DownloadVersion(released, timeout=CALL))))
    assert refused.reason is Reason.NOT_RELEASED

    deletion = _copy_while_recovering(trained)
    base = _stored(trained, deletion.job.base_version)
    start = _stored(trained, deletion.job.attempts[0].start_version)
    assert deletion.job.base_version == before
    assert list(deletion.job.attempts[0].tensors) == ["conv1.weight"]
    _assert_negated_exactly(base, start, {"conv1.weight"})

    trained.release()
    ended = trained.await_job("forget-c0")
    assert ended.job.phase == deletion_pb2.JOB_PHASE_COMPLETED, trained.log("server")
    _assert_first_recovery_round_is_the_mean_of_c1_and_c2(trained, ended, start)
    assert all("c0" not in row.cohort for row in trained.rounds() if row.number > 3)
    _assert_history_is_destroyed(trained, ended)

    run = trained.await_run()
    assert run.rounds_done == 3, "the interrupted run goes on after the job"


def test_the_deleted_client_is_told_why_and_stays_out(trained: LocalFederation) -> None:
    trained.unlearn("c0", "forget-c0", max_rounds=1)
    trained.await_job("forget-c0")

    eventually("c0 logs why", lambda: "forget-c0" in trained.log("c0"))
    info = trained.client_info("c0")
    assert info.barred_by == "forget-c0"
    assert trained.exit_code("c0") is None, "a barred client stays, it may be asked to evaluate"

    trained.kill("c0", signal.SIGTERM)
    by_hand = RawClient(trained, "c0")
    assert by_hand.joined.barred.request_id == "forget-c0"
    polled = by_hand.poll()
    assert polled.WhichOneof("work") == "barred"
    assert "may not train" in polled.barred.message
    header = federation_pb2.UpdateHeader(session=by_hand.session, work_id="old", num_examples=1)
    error = refusal(lambda: by_hand.upload([federation_pb2.UploadUpdateRequest(header=header)]))
    assert error.reason is Reason.CLIENT_BARRED
    assert error.metadata["request_id"] == "forget-c0"


def _copy_while_recovering(federation: LocalFederation) -> deletion_pb2.Deletion:
    def recovering() -> deletion_pb2.Deletion | None:
        found = federation.deletion("forget-c0")
        return found if found.job.phase == deletion_pb2.JOB_PHASE_RECOVERING else None

    found: deletion_pb2.Deletion = eventually("the job recovers", recovering)
    return found


def _stored(federation: LocalFederation, number: int) -> dict[str, torch.Tensor]:
    flat, manifest, _ = read(federation.version_file(federation.versions()[number].sha256))
    return views(flat, manifest)


def _assert_negated_exactly(
    base: dict[str, torch.Tensor], start: dict[str, torch.Tensor], negated: set[str]
) -> None:
    for name, tensor in base.items():
        expected = tensor * -1 if name in negated else tensor
        assert torch.equal(start[name].view(torch.int32), expected.view(torch.int32)), name


def _assert_first_recovery_round_is_the_mean_of_c1_and_c2(
    federation: LocalFederation, ended: deletion_pb2.Deletion, start: dict[str, torch.Tensor]
) -> None:
    """Trains c1 and c2 here, from the negated version and with the round's seeds, and averages.

    Had c0's update been in the sum, the result would differ by its whole share of a third.
    """
    torch.set_num_threads(1)
    manifest = Manifest.of(SmallDigits("1").build_model())
    given = torch.zeros(manifest.nbytes, dtype=torch.uint8)
    for name, view in views(given, manifest).items():
        view.copy_(start[name])
    number = ended.job.attempts[0].rounds[0].round
    average = RunningAverage(manifest)
    for index in (1, 2):
        task = SmallDigits(str(index))
        model = task.build_model()
        load_into(model, given, manifest)
        seed = _plan(number, given).seed_of(f"c{index}")
        task.train(
            model,
            task.train_data(),
            TrainContext(torch.device("cpu"), seed=seed, round=number, phase="recovery"),
        )
        average.add(difference(flatten_module(model, manifest), given, manifest), 200)
    expected = views(average.applied_to(given).tensor, manifest)
    version = ended.job.attempts[0].rounds[0].version
    sha256 = federation.versions()[version].sha256
    flat, _, _ = read(federation.version_file(sha256))
    for name, tensor in views(flat, manifest).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


def _plan(number: int, flat: torch.Tensor) -> WorkPlan:
    version = Version(1, "", 0, 0, 1, VersionOrigin.INITIAL, 0, 0.0, flat.numel())
    return WorkPlan(WorkKind.TRAIN, number, RoundPhase.RECOVERY, version, flat, ("c1",), 1.0)


def _assert_history_is_destroyed(federation: LocalFederation, ended: deletion_pb2.Deletion) -> None:
    versions = federation.versions()
    gone = {version.number: version.sha256 for version in ended.job.destroyed}
    assert ended.job.base_version in gone
    assert ended.job.attempts[0].start_version in gone
    for number, sha256 in gone.items():
        assert versions[number].HasField("destroyed_at")
        assert not federation.version_file(sha256).exists()
    assert federation.version_file(versions[1].sha256).exists(), "the initial version is data-free"
