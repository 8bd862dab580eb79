"""The server's wall clock is stepped by a day, either way, in mid-round and in mid-recovery.

faketime steps it while the server runs; the monotonic clock, by which a system's timers go, stays.
Over plaintext, since no certificate holds a day before it was made. A clock steps forward from a
day ago to now: gRPC waits for moments of the kernel's clock, which nobody steps, and so a process
whose clock is ahead of it would wait for a day, which on a machine that is really stepped it does
not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.faults.deletions import FEW_ROUNDS, REQUEST, assert_forgotten, await_job, is_in_flight
from support.faults.mortal import MortalFederation
from support.faults.soundness import assert_sound
from support.faults.witness import VersionKeeper
from support.federation import ROOT, eventually

from fednot.v1 import operator_pb2

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (apt-get install faketime)"),
]


class TimeTravellingFederation(MortalFederation):
    """Its server reads the wall clock from a file that says by how much it is off."""

    at_first = "+0d"

    @property
    def offset(self) -> Path:
        return self.folder / "offset"

    def step(self, by: str) -> None:
        """Steps the clock; a partial file would be no time at all."""
        written = self.folder / "offset.new"
        written.write_text(by + "\n")
        written.replace(self.offset)

    def launch_server(self, *flags: str) -> None:
        """Starts an interpreter, since the library is loaded at its start."""
        self.step(self.at_first)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self.offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        with (self.folder / "server.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "server", *self.server_arguments(*flags)],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self._processes["server"] = process  # type: ignore[assignment]


Moment = Callable[[TimeTravellingFederation, Callable[[], None]], None]


def in_mid_round(federation: TimeTravellingFederation, step: Callable[[], None]) -> None:
    federation.begin_run(1)
    federation.await_that("a round is in flight", lambda: is_in_flight(federation))
    step()
    federation.release()
    assert federation.run_ended().state == operator_pb2.RUN_STATE_COMPLETED
    federation.persist(lambda: federation.unlearn("c0", REQUEST, **FEW_ROUNDS))


def in_mid_recovery(federation: TimeTravellingFederation, step: Callable[[], None]) -> None:
    federation.persist(lambda: federation.unlearn("c0", REQUEST, **FEW_ROUNDS))
    eventually("a recovery round runs", lambda: federation.status().HasField("round"))
    step()
    time.sleep(1.0)
    assert federation.status().HasField("round"), "no deadline fires at once"
    federation.release()


@pytest.mark.parametrize(
    ("at_first", "then", "when"), [("-1d", "+0d", in_mid_round), ("+0d", "-1d", in_mid_recovery)]
)
def test_a_clock_may_jump(at_first: str, then: str, when: Moment, tmp_path: Path) -> None:
    """The job completes, no deadline of a round fires, and the clients stay."""
    with TimeTravellingFederation(tmp_path, "", insecure=True) as federation:
        federation.at_first = at_first
        federation.begin()
        for index in range(3):
            federation.start_client(index, held=index > 0)
        federation.release()
        federation.await_clients("c0", "c1", "c2")
        federation.run_through(1)
        federation.hold.touch()
        with VersionKeeper(federation.state / "versions", tmp_path / "kept") as keeper:
            before = federation.status().now.ToSeconds()
            when(federation, lambda: federation.step(then))
            assert abs(federation.status().now.ToSeconds() - before) > 80_000, "it was stepped"
            ended = await_job(federation, REQUEST)
        assert_forgotten(federation, ended, keeper)
        outcomes = [row.outcome for row in federation.rounds()]
        assert set(outcomes) == {operator_pb2.ROUND_OUTCOME_COMPLETED}
        assert federation.deaths == []
        assert federation.kill("server", signal.SIGTERM) == 0
        assert_sound(federation)
