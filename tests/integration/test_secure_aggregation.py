"""Masked rounds of a real server and real clients over mutual TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.federation import LocalFederation

from fednot.v1 import deletion_pb2, operator_pb2

MASKED = ("--secure-aggregation", "--min-clients", "3", "--mask-wait", "20")
CLIENTS = 4


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path, server_flags=MASKED) as found:
        found.start_server()
        for index in range(CLIENTS):
            found.start_client(index)
        found.await_connected(CLIENTS)
        yield found


def test_it_trains_and_forgets(federation: LocalFederation) -> None:
    run = federation.train(3)
    assert run.state == operator_pb2.RUN_STATE_COMPLETED, federation.log("server")
    rounds = federation.rounds()
    assert [each.outcome for each in rounds] == [operator_pb2.ROUND_OUTCOME_COMPLETED] * 3
    assert rounds[-1].metrics["loss"] < rounds[0].metrics["loss"]
    assert not [name for each in rounds for name in each.metrics if name.startswith("train_")]
    federation.unlearn("c0", "r1", max_rounds=3)
    deletion = federation.await_job("r1")
    assert deletion.job.phase == deletion_pb2.JOB_PHASE_COMPLETED, deletion
