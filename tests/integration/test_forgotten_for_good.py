"""A forgotten client stays out, whatever is restarted, until an operator readmits it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.federation import CALL, LocalFederation, eventually

from fednot.v1 import deletion_pb2, operator_pb2


@pytest.mark.timeout(180)
def test_a_forgotten_client_stays_out_until_it_is_readmitted(tmp_path: Path) -> None:
    with LocalFederation(tmp_path, server_flags=("--task-arg", "trace=no")) as federation:
        federation.start_server()
        for index in range(3):
            federation.start_client(index)
        federation.await_connected(3)
        federation.train(1)
        federation.unlearn("c0", "r1", layers="index=0", min_rounds=1, max_rounds=1)
        done = federation.await_job("r1")
        assert done.job.phase == deletion_pb2.JOB_PHASE_COMPLETED

        for name in ("c0", "server"):
            federation.kill(name)
        federation.move()
        federation.start_server()
        federation.start_client(0, flags=("--state-dir", str(tmp_path / "reinstalled")))
        for name in ("c1", "c2"):
            federation.kill(name)
            federation.start_client(int(name[1:]))
        federation.await_connected(3)
        federation.train(2)
        for each in federation.rounds()[-2:]:
            assert "c0" not in each.cohort
        info = federation.client_info("c0")
        assert info.state == operator_pb2.CLIENT_STATE_BARRED
        assert info.barred_by == "r1"
        eventually("c0 is told", lambda: "barred from training" in federation.whole_log("c0"))

        federation.operator.ReadmitClient(
            operator_pb2.ReadmitClientRequest(client="c0"), timeout=CALL
        )
        federation.train(1)
        assert "c0" in federation.rounds()[-1].cohort
