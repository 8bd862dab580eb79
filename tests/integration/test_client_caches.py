"""Clients destroy what they keep at a deletion's end and say so; who is away does so later."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.federation import LocalFederation, eventually

from fednot.v1 import deletion_pb2

TOPK = ("--codec", "topk")


def answered(deletion: deletion_pb2.Deletion) -> dict[str, list[str] | None]:
    """By client: the kinds that it destroyed, None if it has not answered."""
    return {
        each.client: [cache.kind for cache in each.destroyed]
        if each.HasField("acknowledged_at")
        else None
        for each in deletion.job.client_destructions
    }


@pytest.mark.timeout(180)
def test_residuals_are_destroyed_by_all_and_by_who_was_away_before_it_works_again(
    tmp_path: Path,
) -> None:
    flags = ("--task-arg", "trace=no", "--destruction-wait", "20")
    with LocalFederation(tmp_path, server_flags=flags) as federation:
        federation.start_server()
        for index in range(4):
            federation.start_client(index, flags=TOPK)
        federation.await_connected(4)
        federation.train(2)
        federation.kill("c3")
        federation.unlearn("c0", "r1", layers="index=0", min_rounds=1, max_rounds=2)
        deletion = federation.await_job("r1")
        assert deletion.job.phase == deletion_pb2.JOB_PHASE_COMPLETED
        told = answered(deletion)
        assert told.pop("c3") is None
        assert set(told) == {"c0", "c1", "c2"}
        assert all(kinds is not None for kinds in told.values())
        assert "residual" in (told["c1"] or [])
        for each in deletion.job.client_destructions:
            assert all(len(cache.sha256) == 64 and cache.num_bytes for cache in each.destroyed)

        federation.start_client(3, flags=TOPK)
        eventually(
            "c3 has destroyed what it kept",
            lambda: answered(federation.deletion("r1"))["c3"] is not None,
        )
        federation.await_connected(4)
        run = federation.train(1)
        assert run.rounds_done == 1
        assert "c3" in federation.rounds()[-1].cohort
