"""Real processes on a real PostgreSQL: kills, a second server, and a database that goes away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.federation import LocalFederation, eventually, run_server
from support.postgres import Postgres, need_postgres

from fednot.v1 import deletion_pb2, operator_pb2

COMPLETED = deletion_pb2.JOB_PHASE_COMPLETED


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    need_postgres()
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.url(postgres.new_database())


@pytest.fixture
def federation(tmp_path: Path, url: str) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path, server_flags=("--database", url)) as made:
        made.start_server()
        yield made


def served_by_two(federation: LocalFederation, *, held: bool = False) -> None:
    for index in range(2):
        federation.start_client(index, held=held)
    federation.await_connected(2)


def test_a_killed_server_goes_on_and_deletes(federation: LocalFederation, url: str) -> None:
    served_by_two(federation)
    federation.start_client(2)
    federation.await_connected(3)
    federation.start_training(3)
    eventually("a round has completed", lambda: federation.status().current.number > 1)
    federation.kill("server")
    federation.start_server()
    assert federation.await_run().state == operator_pb2.RUN_STATE_COMPLETED
    before = federation.versions()
    federation.unlearn("c1", "r1", max_rounds=2)
    federation.kill("server")
    federation.start_server()
    found = federation.await_job("r1")
    assert found.job.phase == COMPLETED, found.job.failure
    assert set(before) <= set(federation.versions())
    assert not (federation.state / "state.sqlite3").exists()
    assert "secret" not in federation.whole_log("server")


def test_a_second_server_on_the_same_database_is_refused(
    federation: LocalFederation, tmp_path: Path, url: str
) -> None:
    """Its state directory is another one, so that the lock of that does not tell."""
    flags = ("--insecure", "--database", url, "--state-dir", str(tmp_path / "other"))
    ended = run_server(*flags, *federation._flags[:2], "--http-address", "")
    assert ended.returncode == 3
    assert "another server runs on this database; stop it first" in ended.stderr


def test_postgres_that_dies_in_mid_work_is_survived(
    federation: LocalFederation, postgres: Postgres
) -> None:
    served_by_two(federation)
    federation.start_training(4)
    eventually("a round has completed", lambda: federation.status().current.number > 1)
    postgres.stop(signal.SIGQUIT)
    try:
        eventually(
            "the server tells that it lost its state",
            lambda: "the server's state cannot be used now" in federation.whole_log("server"),
        )
    finally:
        postgres.start()
    assert federation.await_run().state == operator_pb2.RUN_STATE_COMPLETED
    numbers = list(federation.versions())
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert len({version.sha256 for version in federation.versions().values()}) == len(numbers)
    assert federation.runs("server")


def test_a_server_whose_database_another_one_took_ends_with_3(
    federation: LocalFederation, postgres: Postgres, url: str
) -> None:
    name = url.rpartition("/")[2]
    postgres.run("UPDATE federation SET opened_by = 'another'", name)
    postgres.run(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    code = eventually("the server ends", lambda: federation.exit_code("server"))
    assert code == 3
    assert "another server has used this database meanwhile" in federation.log("server")
