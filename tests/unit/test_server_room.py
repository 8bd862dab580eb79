"""Room on the disks: what is missing, where, and that new work is refused without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fednot.errors import FednotError, Reason
from server.room import SPARE, Room

STATE, VERSIONS = Path("/state"), Path("/versions")


def room(state: int, versions: int) -> Room:
    free = {STATE: state, VERSIONS: versions}
    sizes = {STATE: 2 * state, VERSIONS: 2 * versions}
    return Room([STATE, VERSIONS], needed=1_000_000, free=free.__getitem__, size=sizes.__getitem__)


def test_with_room_on_every_disk_nothing_is_missing() -> None:
    """A version and the spare fit exactly."""
    enough = 1_000_000 + SPARE
    assert room(enough, enough).shortage() == ""
    room(enough, enough).check()
    assert room(enough + 5, enough).fullest == (enough, 2 * enough)


def test_the_fullest_disk_is_named_with_what_it_lacks() -> None:
    short = room(1_000_000 + SPARE, SPARE)
    assert short.shortage() == ("the disk of /versions has 16.8 MB free and new work takes 17.8 MB")
    with pytest.raises(FednotError) as refusal:
        short.check()
    assert refusal.value.reason is Reason.NO_SPACE
    assert refusal.value.retry_after == 10.0


def test_without_folders_there_is_always_room() -> None:
    assert Room().shortage() == ""
    assert Room().fullest == (0, 0)


def test_the_disk_itself_is_asked(tmp_path: Path) -> None:
    assert 0 < Room([tmp_path]).fullest[0] < Room([tmp_path]).fullest[1]
    assert "has" in Room([tmp_path], needed=1 << 60).shortage()
