"""Servers and clients that are killed or stopped, and what is there when they come back."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from support.federation import TASK, LocalFederation, eventually, run_server
from support.ports import free_port
from support.replay import assert_negated_exactly, stored

from fednot.v1 import deletion_pb2, model_pb2, operator_pb2

COMPLETED = operator_pb2.ROUND_OUTCOME_COMPLETED
IDLE = operator_pb2.CLIENT_STATE_IDLE
UNLEARNING = model_pb2.VERSION_ORIGIN_UNLEARNING
STATE_ERROR = 3
CLIENTS = ["c0", "c1", "c2"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Three clients, of which c1 and c2 can be held."""
    flags = ("--task-arg", "trace=no")
    with LocalFederation(tmp_path_factory.mktemp("restarts"), server_flags=flags) as found:
        found.start_server()
        for index in range(3):
            found.start_client(index, held=index > 0)
        found.release()
        found.await_connected(3)
        yield found


def test_a_run_goes_on_after_the_server_was_killed(federation: LocalFederation) -> None:
    joined_at = {name: federation.client_info(name).joined_at for name in CLIENTS}
    in_flight = len(federation.rounds()) + 3
    federation.hold_from(in_flight)
    federation.start_training(5)
    eventually(
        "c1 and c2 are waited for in the third round",
        lambda: (
            federation.status().run.rounds_done == 2
            and list(federation.status().round.missing) == ["c1", "c2"]
        ),
    )
    before, current = federation.rounds()[:-1], federation.status().current

    federation.kill("server")
    federation.start_server()

    assert federation.rounds()[: len(before)] == before, "completed rounds are kept"
    assert federation.status().current.sha256 == current.sha256
    assert federation.status().run.rounds_done == 2
    federation.await_connected(3)
    federation.release()
    run = federation.await_run()
    assert (run.state, run.rounds_done) == (operator_pb2.RUN_STATE_COMPLETED, 5)
    rows = {row.number: row for row in federation.rounds()}
    assert rows[in_flight].outcome == COMPLETED, "it went on under its number"
    assert len([row for row in rows.values() if row.outcome == COMPLETED]) == 5
    assert all(list(row.cohort) == CLIENTS for row in rows.values())
    assert {name: federation.client_info(name).joined_at for name in CLIENTS} == joined_at


def test_a_recovery_goes_on_after_the_server_was_killed(federation: LocalFederation) -> None:
    federation.train(1)
    federation.hold.touch()
    federation.unlearn("c0", "forget-c0", min_rounds=1, max_rounds=2)
    in_flight = eventually("a recovery round waits", lambda: federation.status().round.round)
    attempt, base_version = _first_attempt(federation)
    base, start = stored(federation, base_version), stored(federation, attempt.start_version)

    federation.kill("server")
    federation.kill("c0")
    (federation.folder / "c0.log").unlink()
    federation.start_server()
    federation.start_client(0)
    federation.release()
    job = federation.await_job("forget-c0").job

    assert job.phase == deletion_pb2.JOB_PHASE_COMPLETED, federation.log("server")
    assert_negated_exactly(base, start, {"conv1.weight"})
    assert job.base_version == base_version
    assert job.attempts[0].start_version == attempt.start_version
    assert list(job.attempts[0].tensors) == ["conv1.weight"]
    negated = [v for v in federation.versions().values() if v.origin == UNLEARNING]
    assert len(negated) == len(job.attempts), "one negation for each attempt"
    rows = {row.number: row for row in federation.rounds()}
    assert rows[in_flight].outcome == COMPLETED, "the recovery round went on, too"
    assert list(rows[in_flight].cohort) == ["c1", "c2"]
    _assert_still_barred(federation, in_flight)


def test_a_client_that_is_told_to_end_leaves_and_is_gone(federation: LocalFederation) -> None:
    """It takes no longer than 2 s for that, so a server that stands still may not answer."""
    for _ in range(3):
        eventually("c2 is there", lambda: _state_of(federation, "c2") == IDLE)

        assert federation.kill("c2", signal.SIGTERM) == 0

        if "left 127.0.0.1" in federation.log("c2"):
            break
        assert "left without the server's answer" in federation.log("c2")
        _start_again(federation, 2)
    assert "left 127.0.0.1" in federation.log("c2")
    assert _state_of(federation, "c2") == operator_pb2.CLIENT_STATE_GONE


def _state_of(federation: LocalFederation, name: str) -> operator_pb2.ClientState:
    return federation.client_info(name).state


def _start_again(federation: LocalFederation, index: int) -> None:
    before = federation.whole_log(f"c{index}").count("joined 127")
    federation.start_client(index)
    eventually(
        f"c{index} is back",
        lambda: federation.whole_log(f"c{index}").count("joined 127") > before,
    )


def test_a_state_directory_serves_one_server_and_one_model(federation: LocalFederation) -> None:
    """The second server is refused while the first runs; another model after it has ended."""
    flags = ("--address", f"127.0.0.1:{free_port()}", "--http-address", "", "--task", TASK)
    flags = (*federation.server_identity, *flags, "--state-dir", str(federation.state))

    second = run_server(*flags)

    assert second.returncode == STATE_ERROR
    assert f"another server runs on {federation.state}; stop it first" in second.stderr
    assert "Traceback" not in second.stderr
    assert federation.kill("server", signal.SIGTERM) == 0, "a client polls; that does not keep it"

    other = run_server(*flags, "--task-arg", "hidden=16")

    assert other.returncode == STATE_ERROR
    assert "the state belongs to another model than the Task or file given: " in other.stderr
    for tensor in ("fc1.weight", "fc1.bias", "fc2.weight"):
        assert tensor in other.stderr
    assert "begin anew with another state directory" in other.stderr
    assert "Traceback" not in other.stderr


def _assert_still_barred(federation: LocalFederation, since: int) -> None:
    eventually("c0 is told", lambda: "barred from training" in federation.log("c0"))
    assert "by request forget-c0" in federation.log("c0")
    info = federation.client_info("c0")
    assert (info.barred_by, info.state) == ("forget-c0", operator_pb2.CLIENT_STATE_BARRED)
    federation.train(1)
    later = [row for row in federation.rounds() if row.number >= since]
    assert len(later) > 1
    assert all("c0" not in row.cohort for row in later)


def _first_attempt(federation: LocalFederation) -> tuple[deletion_pb2.Attempt, int]:
    job = federation.deletion("forget-c0").job
    assert job.phase == deletion_pb2.JOB_PHASE_RECOVERING
    return job.attempts[0], job.base_version
