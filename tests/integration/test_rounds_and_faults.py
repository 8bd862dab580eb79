"""Rounds with clients that die, fail, are slow or are too few."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from google.protobuf import duration_pb2
from support.federation import CALL, LocalFederation, eventually

from fednot.v1 import operator_pb2

COMPLETED = operator_pb2.ROUND_OUTCOME_COMPLETED
DEGRADED = operator_pb2.ROUND_OUTCOME_DEGRADED
FAILED = operator_pb2.ROUND_OUTCOME_FAILED
ABORTED = operator_pb2.ROUND_OUTCOME_ABORTED
EVERYONE = ["c0", "c1", "c2", "c3"]
LAPSE = 6.0
TASK = ("--task-arg", "trace=no", "--task-arg", "server_test=no")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A server that hears of its clients each two seconds, so that a dead one is noticed."""
    flags = ("--round-retries", "1", *TASK)
    with LocalFederation(tmp_path_factory.mktemp("watched"), server_flags=flags) as federation:
        federation.start_server()
        yield federation


@pytest.fixture
def four(watched: LocalFederation) -> LocalFederation:
    """c0, c1 and c2, which can be held, and c3, which can be made to fail; all there and able."""
    watched.release()
    watched.fail.unlink(missing_ok=True)
    for index in range(4):
        if not watched.runs(f"c{index}"):
            watched.start_client(index, held=index in (1, 2), failing=index == 3)
    watched.release()
    watched.await_connected(4)
    return watched


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A server that hears of its clients once a minute: only deadlines end its waits.

    c0 trains at once, c1 can be held.
    """
    flags = ("--heartbeat-interval", "60", *TASK)
    with LocalFederation(tmp_path_factory.mktemp("patient"), server_flags=flags) as federation:
        federation.start_server()
        federation.start_client(0)
        federation.start_client(1, held=True)
        federation.await_connected(2)
        yield federation


def test_a_fraction_takes_only_a_part_of_the_clients(four: LocalFederation) -> None:
    run = four.train(2, fraction=0.5)

    assert run.state == operator_pb2.RUN_STATE_COMPLETED
    for row in four.rounds()[-2:]:
        assert row.outcome == COMPLETED
        assert len(row.cohort) == 2
        assert set(row.cohort) < set(EVERYONE)


def test_a_task_that_raises_is_reported_with_what_it_raised(four: LocalFederation) -> None:
    four.fail.touch()

    run = four.train(1)

    assert run.rounds_done == 1
    row = four.rounds()[-1]
    assert row.outcome == DEGRADED
    assert missing(row) == {"c3": "it failed: RuntimeError: the disk with the digits is gone"}


def test_rounds_without_quorum_are_retried_and_then_fail_the_run(four: LocalFederation) -> None:
    before, rounds_before = four.status().current, len(four.rounds())
    four.fail.touch()

    run = four.train(1, quorum=1.0)

    new = four.rounds()[rounds_before:]
    assert [row.outcome for row in new] == [FAILED, FAILED], "one round and --round-retries 1"
    assert all("disk with the digits" in missing(row)["c3"] for row in new)
    assert all(not row.result_version for row in new)
    assert run.state == operator_pb2.RUN_STATE_FAILED
    assert run.rounds_done == 0
    assert run.failure.startswith("2 rounds in a row failed; missing c3: it failed")
    assert four.status().current == before


def test_stopping_aborts_the_round_in_flight_and_keeps_the_others(four: LocalFederation) -> None:
    rounds_before = len(four.rounds())
    four.hold_from(rounds_before + 3)
    four.start_training(5)
    eventually(
        "c0 and c3 wait for the held in the third round",
        lambda: four.status().run.rounds_done == 2 and four.status().round.updates == 2,
    )

    stopped = four.operator.StopTraining(operator_pb2.StopTrainingRequest(), timeout=CALL).run

    *kept, aborted = four.rounds()[rounds_before:]
    assert stopped.state == operator_pb2.RUN_STATE_STOPPED
    assert stopped.rounds_done == len(kept) == 2
    assert {row.outcome for row in kept} == {COMPLETED}
    assert aborted.outcome == ABORTED
    assert not aborted.result_version
    status = four.status()
    assert status.current.number == kept[-1].result_version
    assert not status.HasField("round")
    for name in ("c1", "c2"):
        eventually(f"{name} drops it", lambda name=name: "it no longer counts" in four.log(name))
    four.release()
    assert four.train(1).state == operator_pb2.RUN_STATE_COMPLETED
    assert list(four.rounds()[-1].cohort) == EVERYONE
    assert four.rounds()[-1].outcome == COMPLETED


def test_a_server_that_stood_still_gives_nobody_up(four: LocalFederation) -> None:
    four.hold.touch()
    four.start_training(1)
    eventually("c0 and c3 have answered", lambda: four.status().round.updates == 2)

    four.send("server", signal.SIGSTOP)
    time.sleep(LAPSE + 2)
    four.send("server", signal.SIGCONT)
    time.sleep(2)
    four.release()

    assert four.await_run().state == operator_pb2.RUN_STATE_COMPLETED
    assert four.rounds()[-1].outcome == COMPLETED
    assert not four.rounds()[-1].missing


def test_a_client_that_is_killed_in_mid_round_does_not_stall_it(four: LocalFederation) -> None:
    four.hold.touch()
    four.start_training(2)
    eventually("c0 and c3 wait for the held", lambda: four.status().round.updates == 2)

    four.kill("c2")
    eventually("c2 is given up", lambda: list(four.status().round.missing) == ["c1"])
    four.release()
    run = four.await_run()

    assert run.rounds_done == 2
    first, second = four.rounds()[-2:]
    assert first.outcome == DEGRADED
    assert set(missing(first)) == {"c2"}
    assert missing(first)["c2"].startswith("lost; last seen ")
    assert second.outcome == COMPLETED
    assert list(second.cohort) == ["c0", "c1", "c3"], "a lapsed client is asked no more"


def test_a_run_with_too_few_clients_fails_and_names_whom_it_waited_for(
    four: LocalFederation,
) -> None:
    assert four.kill("c2", signal.SIGTERM) == 0
    wait = duration_pb2.Duration(seconds=1)

    run = four.train(1, min_clients=4, client_wait=wait)

    assert run.state == operator_pb2.RUN_STATE_FAILED
    assert run.rounds_done == 0
    assert "waiting for 1 of 4 clients for a training round: c2, last seen " in run.failure


def test_a_late_update_is_refused_and_its_client_goes_on(patient: LocalFederation) -> None:
    refused = 'fednot_refusals_total{reason="UNKNOWN_WORK"}'
    patient.hold.touch()
    before = patient.metrics().get(refused, 0.0)
    number = len(patient.rounds()) + 1
    without_it = patient.train(1, deadline=duration_pb2.Duration(seconds=6))

    patient.release()
    run = patient.train(1)

    assert (without_it.rounds_done, run.rounds_done) == (1, 1)
    first, second = patient.rounds()[-2:]
    assert (first.number, first.outcome) == (number, DEGRADED)
    assert missing(first)["c1"].startswith("no answer in 6 s; last seen ")
    assert (second.outcome, list(second.cohort)) == (COMPLETED, ["c0", "c1"])
    assert patient.metrics()[refused] == before + 1
    assert f"dropped training round {number}:" in patient.log("c1")


def test_a_client_that_restarts_in_mid_round_gets_its_work_again(patient: LocalFederation) -> None:
    identity = (patient.folder / "c1" / "identity.json").read_text()
    patient.hold.touch()
    patient.start_training(1)
    eventually("c0's update is in", lambda: patient.status().round.updates == 1)

    patient.kill("c1")
    patient.start_client(1, held=True)
    patient.release()
    run = patient.await_run()

    assert run.state == operator_pb2.RUN_STATE_COMPLETED
    row = patient.rounds()[-1]
    assert (row.outcome, list(row.cohort), missing(row)) == (COMPLETED, ["c0", "c1"], {})
    assert (patient.folder / "c1" / "identity.json").read_text() == identity


def missing(row: operator_pb2.Round) -> dict[str, str]:
    return {entry.client: entry.reason for entry in row.missing}
