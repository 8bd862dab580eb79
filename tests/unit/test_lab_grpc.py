"""What the real processes of a cell are told."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from support.lab_study import study

from fednot.settings import load
from lab.cells import cells_of
from lab.config import read
from lab.engines.engine import Opening
from lab.engines.grpc import Processes
from lab.scene import scene_of
from server.app import HEARTBEATS_TO_LAPSE
from server.settings import ServerSettings

STARVED = 30.0
"""Longer than a busy machine lets a process stand still."""


def test_a_client_that_is_starved_for_a_while_is_not_given_up(tmp_path: Path) -> None:
    """Else its round is done again by another number, hence from other seeds: other figures."""
    cell = cells_of(read(study(tmp_path)))[0]
    with ExitStack() as stack:
        opening = Opening(tmp_path / "state", scene_of(cell.base), lambda _rounds: None)
        processes = Processes(opening, tmp_path, stack)
        words = processes._server_arguments()[1:]
    found = load(ServerSettings, program="server", prefix="NONE_", arguments=words, environment={})
    assert HEARTBEATS_TO_LAPSE * found.heartbeat_interval > STARVED
