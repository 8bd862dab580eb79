"""A round outlives the server: the same number, cohort and result as without the restart."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.federation import LocalFederation, eventually

from fednot.v1 import operator_pb2

COMPLETED = operator_pb2.ROUND_OUTCOME_COMPLETED
DEGRADED = operator_pb2.ROUND_OUTCOME_DEGRADED
ABORTED = operator_pb2.ROUND_OUTCOME_ABORTED
FLAGS = ("--task-arg", "trace=no", "--accumulator", "float64", "--heartbeat-interval", "5")
CLIENTS = ["c0", "c1", "c2"]
DISTURBED = 2
"""The round in which c1 and c2 train while the server is away."""


@contextmanager
def three(folder: Path, *flags: str) -> Iterator[LocalFederation]:
    """Three clients; c1 and c2 are held from the second round on, and c0 is not."""
    with LocalFederation(folder, server_flags=(*FLAGS, *flags)) as federation:
        federation.start_server()
        for index in range(3):
            federation.start_client(index, held=index > 0)
        federation.hold_from(DISTURBED)
        federation.await_connected(3)
        yield federation


def await_held(federation: LocalFederation) -> None:
    """Waits until c0's update counts and c1 and c2 train."""
    eventually(
        "c1 and c2 are waited for",
        lambda: (
            federation.status().round.round == DISTURBED
            and list(federation.status().round.missing) == ["c1", "c2"]
        ),
    )
    for name in ("c1", "c2"):
        eventually(f"{name} trains", lambda name=name: trainings(federation, name) == 1)


def trainings(federation: LocalFederation, name: str) -> int:
    return federation.whole_log(name).count(f"round {DISTURBED}: training on version")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sha256 of the model after three rounds without a restart."""
    with three(tmp_path_factory.mktemp("undisturbed")) as federation:
        federation.release()
        assert federation.train(3).rounds_done == 3
        return federation.status().current.sha256


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_round_goes_on_where_it_was(
    how: signal.Signals, undisturbed: str, tmp_path: Path
) -> None:
    """c0's update was in the lost sum: c0 trains again, and it counts once. c1 and c2 do not."""
    with three(tmp_path) as federation:
        federation.start_training(3)
        await_held(federation)
        federation.kill("server", how)
        federation.start_server()
        for name in CLIENTS:
            eventually(
                f"{name} is back",
                lambda name=name: federation.whole_log(name).count("joined 127") == 2,
            )
        federation.release()
        run = federation.await_run()

        assert run.rounds_done == 3
        assert [row.outcome for row in federation.rounds()] == [COMPLETED] * 3
        assert [list(row.cohort) for row in federation.rounds()] == [CLIENTS] * 3
        assert federation.status().current.sha256 == undisturbed
        assert [trainings(federation, name) for name in CLIENTS] == [2, 1, 1]
        for name in ("c1", "c2"):
            assert "training round 2 goes on in this session" in federation.whole_log(name)


def test_training_that_ended_while_the_server_was_away_counts(
    undisturbed: str, tmp_path: Path
) -> None:
    with three(tmp_path) as federation:
        federation.start_training(3)
        await_held(federation)
        federation.kill("server")
        federation.release()
        federation.start_server()
        assert federation.await_run().rounds_done == 3

        assert [row.outcome for row in federation.rounds()] == [COMPLETED] * 3
        assert federation.status().current.sha256 == undisturbed
        assert [trainings(federation, name) for name in CLIENTS] == [2, 1, 1]


def test_a_client_that_is_killed_and_started_again_gets_its_work_again(
    undisturbed: str, tmp_path: Path
) -> None:
    """It is back within three heartbeats (a minute), before it is given up on."""
    with three(tmp_path, "--heartbeat-interval", "20") as federation:
        federation.start_training(3)
        await_held(federation)
        federation.kill("c1")
        federation.release()
        federation.start_client(1)
        assert federation.await_run().rounds_done == 3

        assert [row.outcome for row in federation.rounds()] == [COMPLETED] * 3
        assert federation.status().current.sha256 == undisturbed
        assert [trainings(federation, name) for name in CLIENTS] == [1, 2, 1]


def test_a_client_that_does_not_come_back_is_given_up_on(tmp_path: Path) -> None:
    with three(tmp_path, "--heartbeat-interval", "2") as federation:
        federation.start_training(2, quorum=0.5, min_clients=2)
        await_held(federation)
        for name in ("server", "c2"):
            federation.kill(name)
        federation.start_server()
        federation.release()
        assert federation.await_run().rounds_done == 2

        row = federation.rounds()[DISTURBED - 1]
        assert (row.number, row.outcome) == (DISTURBED, DEGRADED)
        (missing,) = row.missing
        assert (missing.client, missing.reason) == ("c2", "lost; it has no session")


def test_a_deletion_aborts_the_round_that_goes_on(tmp_path: Path) -> None:
    """What c1 trained through the restart is dropped; c2 trains in the recovery."""
    with three(tmp_path) as federation:
        federation.start_training(2)
        await_held(federation)
        federation.kill("server")
        federation.start_server()
        federation.await_connected(3)
        eventually("the round goes on", lambda: federation.status().round.round == DISTURBED)
        deletion = federation.unlearn("c1", "forget-c1", min_rounds=1, max_rounds=1)
        federation.release()
        federation.await_job("forget-c1")

        assert list(deletion.aborted_rounds) == [DISTURBED]
        rows = {row.number: row for row in federation.rounds()}
        assert rows[DISTURBED].outcome == ABORTED
        assert all("c1" not in row.cohort for number, row in rows.items() if number > DISTURBED)
