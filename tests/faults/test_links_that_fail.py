"""Connections that are cut at any byte, or on which nothing moves any more."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from google.protobuf import duration_pb2
from support.faults.deletions import FEW_ROUNDS, REQUEST, assert_forgotten, await_job
from support.faults.links import link_to
from support.faults.mortal import MortalFederation
from support.faults.soundness import assert_sound
from support.faults.witness import VersionKeeper
from support.federation import eventually

from fednot.v1 import operator_pb2

pytestmark = pytest.mark.faults
CUTS = 8
MOST_BETWEEN = 40_000
"""An update of the small model has about 55,000 bytes."""


@pytest.mark.parametrize(
    ("seed", "downstream"), [(1, False), (2, False), (1, True)], ids=["up-1", "up-2", "down-1"]
)
def test_a_link_may_be_cut_at_any_byte(seed: int, downstream: bool, tmp_path: Path) -> None:
    """Training and recovery go on, and what is recovered is what was sent, to the last byte."""
    draw = random.Random(seed)
    cuts = [draw.randint(1, MOST_BETWEEN) for _ in range(CUTS)]
    with MortalFederation(tmp_path, "") as federation:
        federation.begin()
        with link_to(federation.port, cuts, downstream=downstream) as link:
            for index in (0, 2):
                federation.start_client(index)
            federation.start_client(1, flags=link.flags)
            federation.await_clients("c0", "c1", "c2")
            run = federation.run_through(3)
            with VersionKeeper(federation.state / "versions", tmp_path / "kept") as keeper:
                federation.unlearn("c0", REQUEST, **FEW_ROUNDS)
                ended = await_job(federation, REQUEST)
            assert run.state == operator_pb2.RUN_STATE_COMPLETED
            assert_forgotten(federation, ended, keeper)
            assert link.cut >= CUTS // 2, f"only {link.cut} cuts took place, {cuts}"
        assert federation.kill("server", signal.SIGTERM) == 0
        assert_sound(federation)


def test_a_link_on_which_nothing_moves_holds_nobody_up(tmp_path: Path) -> None:
    """In mid-round c1's link stalls: the round ends without it, and the next one waits for it by
    name; a deletion is accepted meanwhile, and completes once the link moves again.
    """
    with MortalFederation(tmp_path, "") as federation:
        federation.begin()
        with link_to(federation.port) as link:
            federation.start_client(0)
            federation.start_client(2)
            federation.start_client(1, held=True, flags=link.flags)
            federation.await_clients("c0", "c1", "c2")
            federation.start_training(1, deadline=duration_pb2.Duration(seconds=90))
            eventually("c1 trains", lambda: list(federation.status().round.missing) == ["c1"])
            link.stalled = True
            federation.release()
            run = federation.await_run(60)
            assert run.state == operator_pb2.RUN_STATE_COMPLETED
            (row,) = federation.rounds()
            assert [each.client for each in row.missing] == ["c1"]
            with VersionKeeper(federation.state / "versions", tmp_path / "kept") as keeper:
                federation.unlearn("c0", REQUEST, **FEW_ROUNDS)
                said = eventually(
                    "the job says whom it waits for", lambda: federation.status().waiting_for
                )
                assert said.startswith("waiting for 1 of 2 clients for a recovery round: c1, last")
                link.resume()
                ended = await_job(federation, REQUEST)
            assert_forgotten(federation, ended, keeper)
        assert federation.kill("server", signal.SIGTERM) == 0
        assert_sound(federation)
