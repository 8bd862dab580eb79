"""A second process with the same identity is refused until the first is gone."""

from __future__ import annotations

import signal
from pathlib import Path

from support.federation import LocalFederation, eventually

from fednot.v1 import operator_pb2

COMPLETED = operator_pb2.RUN_STATE_COMPLETED


def test_a_twin_gets_no_work_while_the_first_lives(tmp_path: Path) -> None:
    """The twin has the certificate but not the state directory, as after a reinstall.

    It gets in three heartbeats (6 s) after the first was killed; killed itself and started again
    from its own state directory it is let in at once, although its session has not lapsed.
    """
    flags = ("--task-arg", "trace=no")
    with LocalFederation(tmp_path, server_flags=flags) as federation:
        federation.start_server()
        federation.start_client(0)
        federation.await_connected(1)
        twin = federation.start_client(0, twin=True)
        eventually("the twin is refused", lambda: "another process is 'c0'" in federation.log(twin))
        assert federation.train(2, min_clients=1).state == COMPLETED

        _await_told(federation, "c0", 2)
        joined_at = federation.client_info("c0").joined_at
        federation.kill("c0", signal.SIGKILL)
        eventually("the twin gets in", lambda: "joined 127" in federation.log(twin))
        assert federation.train(1, min_clients=1).state == COMPLETED

        _await_told(federation, twin, 1)
        federation.kill(twin, signal.SIGKILL)
        federation.start_client(0, twin=True)
        eventually("it is back", lambda: federation.log(twin).count("joined 127") == 2)

        assert federation.client_info("c0").joined_at == joined_at, "it is the same client still"
        first, second = federation.whole_log("c0"), federation.whole_log(twin)
        assert first.count("joined 127") == 1, "the first was undisturbed"
        assert (first.count(" done: "), second.count(" done: ")) == (2, 1)
        assert second.count("waiting for 127.0.0.1") == 1, second
        assert "Stop the other process of this name" in second
        refused = federation.metrics()['fednot_refusals_total{reason="CLIENT_CONNECTED"}']
        assert refused >= 1


def _await_told(federation: LocalFederation, process: str, rounds: int) -> None:
    """A client tells of a round after its update was taken, maybe after the end of the run."""
    eventually(
        f"{process} has told of {rounds} rounds",
        lambda: federation.whole_log(process).count(" done: ") == rounds,
    )
