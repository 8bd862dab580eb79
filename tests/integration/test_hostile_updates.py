"""Robust aggregation on a real server: what it leaves out, counts, and refuses to average."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator, Mapping

import pytest
import torch
from support.federation import LocalFederation, eventually
from support.raw_client import RawClient, constant_update, parts_of
from support.replay import MANIFEST, assert_close, stored

from fednot.tensors import views
from fednot.v1 import operator_pb2

HONEST = {"h0": 0.001, "h1": 0.002, "h2": 0.003, "h3": 0.004}
FLAGS = (
    *("--aggregation", "multi-krum", "--min-clients", "5", "--round-retries", "0"),
    *("--clip-norm", "10", "--quorum", "0.5", "--heartbeat-interval", "60"),
    *("--task-arg", "trace=no"),
)
ODD = 'fednot_update_anomalies_total{kind="%s"}'


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path_factory.mktemp("hostile"), server_flags=FLAGS) as found:
        found.start_server()
        yield found


@pytest.fixture
def clients(federation: LocalFederation) -> dict[str, RawClient]:
    """Four honest clients and a hostile one, by hand."""
    return {name: RawClient(federation, name) for name in (*HONEST, "hostile")}


def play(
    federation: LocalFederation, clients: Mapping[str, RawClient], values: Mapping[str, float]
) -> operator_pb2.Round:
    """A round in which clients send constant updates; the others say that they failed."""
    federation.start_training(1)
    for name, client in clients.items():
        work = client.train_work()
        if name in values:
            client.upload(parts_of(client.header(work), constant_update(values[name])))
        else:
            client.report_failure(work.work_id, "no power")
    federation.await_run()
    return federation.rounds()[-1]


def moved_by(federation: LocalFederation, row: operator_pb2.Round, step: float) -> None:
    """Holds that every weight moved by the step in a round."""
    expected = stored(federation, row.base_version).clone()
    for view in views(expected, MANIFEST).values():
        view.add_(step)
    assert_close(stored(federation, row.result_version), expected)


def test_a_hostile_update_is_left_out_and_counted(
    federation: LocalFederation, clients: dict[str, RawClient]
) -> None:
    """The honest ones move each weight by 0.0025 on average; the hostile one by -1 each.

    Its norm is the root of the number of elements, 71 or more, and is clipped to 10 at first.
    """
    elements = sum(spec.numel for spec in MANIFEST)
    assert elements**0.5 > 10
    row = play(federation, clients, {**HONEST, "hostile": -1.0})

    assert row.outcome == operator_pb2.ROUND_OUTCOME_COMPLETED
    moved_by(federation, row, sum(HONEST.values()) / 4)
    odd = dict(federation.client_info("hostile").anomalies)
    assert odd == {"clipped": 1, "left_out": 1, "opposed": 1, "outlier_norm": 1}
    assert not any(federation.client_info(name).anomalies for name in HONEST)
    assert federation.metrics()[ODD % "left_out"] == 1
    assert federation.metrics()[ODD % "not_finite"] == 0
    assert federation.status().aggregation == "multi-krum"


def test_with_too_few_updates_nothing_is_averaged(
    federation: LocalFederation, clients: dict[str, RawClient]
) -> None:
    """The quorum of three is reached, and multi-Krum withstands one hostile of five or more."""
    before = federation.status().current.number
    row = play(federation, clients, HONEST)

    assert row.outcome == operator_pb2.ROUND_OUTCOME_FAILED
    assert federation.status().current.number == before
    told = {entry.client: entry.reason for entry in row.missing}
    assert told["hostile"] == "it failed: no power"
    assert all("multi-krum needs 5 updates" in told[name] for name in HONEST)


def test_the_counts_outlive_the_server(
    federation: LocalFederation, clients: dict[str, RawClient]
) -> None:
    before = dict(federation.client_info("hostile").anomalies)
    assert before["left_out"] >= 1

    assert federation.kill("server", signal.SIGTERM) == 0
    federation.start_server()

    assert dict(federation.client_info("hostile").anomalies) == before
    again = {name: RawClient(federation, name) for name in clients}
    play(federation, again, {**HONEST, "hostile": -1.0})
    counted = dict(federation.client_info("hostile").anomalies)
    assert counted == {kind: count + 1 for kind, count in before.items()}
    assert torch.isfinite(stored(federation, federation.status().current.number)).all()


def test_a_server_that_is_killed_has_written_what_it_counted(federation: LocalFederation) -> None:
    before = dict(federation.client_info("hostile").anomalies)
    assert before["left_out"] >= 1

    def written() -> bool:
        with sqlite3.connect(federation.state / "state.sqlite3") as connection:
            rows = connection.execute("SELECT kind, count FROM anomalies WHERE client = 'hostile'")
            return dict(rows.fetchall()) == before

    eventually("the counts are in the database", written, 30)
    federation.kill("server")
    federation.start_server()

    assert dict(federation.client_info("hostile").anomalies) == before
