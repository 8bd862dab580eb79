"""A federation whose versions are in S3: killed in mid-upload, and made to forget."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.federation import OPERATOR, LocalFederation, eventually
from support.forked import FEDNOT, Command
from support.s3 import S3Server

from fednot import model_file
from fednot.v1 import deletion_pb2, operator_pb2
from server.state.model_store import name_of, sha256_of

pytestmark = pytest.mark.long

STATE_ERROR = 3
KILLED = -9


def test_a_server_is_killed_and_forgets_and_serves_versions_that_are_in_s3(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """The upload that the kill left held a model; after the deletion only what is kept is left."""
    bucket = s3_server.new_bucket()
    place = f"s3://{bucket.name}/federation"
    with LocalFederation(
        tmp_path,
        server_flags=("--versions", place, "--task-arg", "trace=no"),
        server_environment=s3_server.environment,
    ) as found:
        found.start_server()
        for index in range(3):
            found.start_client(index)
        found.await_connected(3)
        found.train(2)
        found.kill("server")

        found.server_environment["FEDNOT_FAILPOINT"] = "before complete.version-upload"
        found.start_server()
        found.await_connected(3)
        found.start_training(2)
        eventually("the server dies in an upload", lambda: found.exit_code("server") == KILLED, 60)
        assert len(bucket.uploads()) == 1

        del found.server_environment["FEDNOT_FAILPOINT"]
        found.start_server()
        found.await_connected(3)
        run = found.await_run()
        assert (run.state, run.rounds_done) == (operator_pb2.RUN_STATE_COMPLETED, 2)
        before = {version.sha256 for version in found.versions().values()}
        assert set(bucket.names()) == {f"federation/{name_of(sha256)}" for sha256 in before}

        found.unlearn("c0", "forget-c0", min_rounds=1, max_rounds=1, tolerance=0.9)
        job = found.await_job("forget-c0").job
        assert job.phase == deletion_pb2.JOB_PHASE_COMPLETED, found.log("server")
        versions = found.versions().values()
        kept = {version.sha256 for version in versions if not version.HasField("destroyed_at")}
        assert len(before & kept) == 1, "the initial version, which holds no data"
        assert set(bucket.names()) == {f"federation/{name_of(sha256)}" for sha256 in kept}
        assert bucket.uploads() == []
        _assert_pulled(found, tmp_path / "pulled.safetensors")


def _assert_pulled(found: LocalFederation, path: Path) -> None:
    where = ("--server", found.address, "--identity", str(found.identity_of(*OPERATOR)))
    told = Command(FEDNOT, ["model", "pull", "-o", str(path), *where]).ended(90)
    assert told.returncode == 0, told.stderr
    assert sha256_of(model_file.read(path)[0]) == found.status().released.sha256


def test_a_bucket_that_keeps_old_versions_stops_the_start(
    s3_server: S3Server, tmp_path: Path
) -> None:
    bucket = s3_server.new_bucket()
    bucket.call("put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"})
    with LocalFederation(
        tmp_path,
        server_flags=("--versions", f"s3://{bucket.name}/x"),
        server_environment=s3_server.environment,
    ) as found:
        with pytest.raises(pytest.fail.Exception, match=f"ended with {STATE_ERROR}"):
            found.start_server()
        assert "keeps old versions of objects" in found.log("server")


def test_a_deletion_waits_for_a_bucket_that_cannot_be_written_to_and_goes_on(
    s3_server: S3Server, tmp_path: Path
) -> None:
    bucket = s3_server.new_bucket()
    outage = tmp_path / "outage"
    with LocalFederation(
        tmp_path,
        server_flags=("--versions", f"s3://{bucket.name}", "--task-arg", "trace=no"),
        server_environment=s3_server.environment
        | {
            "FEDNOT_FAILPOINT": "before begin.version-upload =EIO",
            "FEDNOT_FAILPOINT_WHILE": str(outage),
        },
    ) as found:
        found.start_server()
        for index in range(3):
            found.start_client(index)
        found.await_connected(3)
        found.train(1)
        outage.touch()
        found.unlearn("c0", "forget-c0", min_rounds=1, max_rounds=1, tolerance=0.9)
        eventually("the fault is told", lambda: "after a fault" in found.status().waiting_for)
        outage.unlink()
        job = found.await_job("forget-c0").job
        assert job.phase == deletion_pb2.JOB_PHASE_COMPLETED, found.log("server")
        assert len(job.attempts) == 1
        assert bucket.uploads() == []
