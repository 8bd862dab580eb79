"""A state directory on a disk that fills up: a small tmpfs with a ballast file."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.faults.deletions import FEW_ROUNDS, REQUEST, assert_forgotten, await_job
from support.faults.mortal import MortalFederation
from support.faults.soundness import assert_sound
from support.faults.witness import VersionKeeper
from support.federation import eventually, refusal

from fednot.errors import Reason
from fednot.v1 import operator_pb2

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a tmpfs"),
]
KEEPING = ("--keep-updates", "1")
NO_ROOM = Reason.NO_SPACE
SIZE = 24 << 20
ROOM = 4 << 10
PART = 64 << 10


class SmallDisk:
    """A tmpfs whose free space a test takes away and gives back."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def fill(self) -> None:
        """Leaves nothing but a page or so."""
        with self._ballast.open("wb", buffering=0) as file:
            while (left := self._free() - ROOM) > 0:
                with suppress(OSError):
                    file.write(bytes(min(PART, left)))

    def empty(self) -> None:
        self._ballast.unlink()

    def _free(self) -> int:
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize


@contextmanager
def small_disk(place: Path) -> Iterator[SmallDisk]:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "fednot-faults", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True, timeout=20, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr}")
    try:
        yield SmallDisk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], timeout=20, check=True)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[tuple[MortalFederation, SmallDisk]]:
    """A federation that has trained two rounds, and then has no room left."""
    with (
        small_disk(tmp_path / "server") as disk,
        MortalFederation(tmp_path, "") as federation,
    ):
        federation.begin()
        for index in range(3):
            federation.start_client(index, held=index > 0)
        federation.release()
        federation.await_clients("c0", "c1", "c2")
        assert federation.run_through(2).state == operator_pb2.RUN_STATE_COMPLETED
        disk.fill()
        yield federation, disk


def test_new_work_is_refused_and_status_answered_until_there_is_room(
    filled: tuple[MortalFederation, SmallDisk],
) -> None:
    """A deletion is not answered that could not be written; the same one is taken afterwards."""
    federation, disk = filled
    current = federation.status().current

    told = refusal(lambda: federation.unlearn("c0", REQUEST, **FEW_ROUNDS))
    assert told.reason is NO_ROOM, told
    told = refusal(lambda: federation.start_training(1))
    assert told.reason is NO_ROOM, told
    assert federation.status().current == current
    assert federation.rounds()
    assert federation.exit_code("server") is None

    with VersionKeeper(federation.state / "versions", disk.place / "kept") as keeper:
        disk.empty()
        federation.unlearn("c0", REQUEST, **FEW_ROUNDS)
        ended = await_job(federation, REQUEST)
    assert_forgotten(federation, ended, keeper)
    _assert_ends_well(federation)


def test_a_job_waits_for_room_and_goes_on(tmp_path: Path) -> None:
    """The disk fills up in mid-recovery: nothing is lost, and status says what it waits for."""
    with (
        small_disk(tmp_path / "server") as disk,
        MortalFederation(tmp_path, "") as federation,
        VersionKeeper(federation.state / "versions", disk.place / "kept") as keeper,
    ):
        federation.begin()
        for index in range(3):
            federation.start_client(index, held=index > 0)
        federation.release()
        federation.await_clients("c0", "c1", "c2")
        federation.run_through(2)
        federation.hold.touch()
        federation.unlearn("c0", REQUEST, **FEW_ROUNDS)
        eventually("a recovery round runs", lambda: federation.status().HasField("round"))
        disk.fill()
        federation.release()
        eventually("it says that there is no room", lambda: is_said(federation))
        assert federation.exit_code("server") is None
        disk.empty()
        ended = await_job(federation, REQUEST)
        assert_forgotten(federation, ended, keeper)
        _assert_ends_well(federation)


def test_a_round_whose_updates_could_not_be_kept_is_made_again_with_all_of_them(
    tmp_path: Path,
) -> None:
    with (
        small_disk(tmp_path / "server") as disk,
        MortalFederation(tmp_path, "", KEEPING) as federation,
    ):
        federation.begin()
        for index in range(3):
            federation.start_client(index, held=index > 0)
        federation.release()
        federation.await_clients("c0", "c1", "c2")
        federation.run_through(1)
        federation.hold.touch()
        federation.begin_run(1)
        eventually("a round runs", lambda: federation.status().round.updates == 1)
        disk.fill()
        federation.release()
        eventually("it says that there is no room", lambda: is_said(federation))
        assert federation.status().kept_updates.count == 3
        disk.empty()
        run = federation.run_ended()
        assert run.state == operator_pb2.RUN_STATE_COMPLETED
        assert federation.status().kept_updates.count == 2 * 3
        assert federation.rounds()[1].outcome == operator_pb2.ROUND_OUTCOME_COMPLETED
        _assert_ends_well(federation)


def is_said(federation: MortalFederation) -> bool:
    waiting = federation.status().waiting_for
    return "disk" in waiting or "room" in waiting or "space" in waiting


def _assert_ends_well(federation: MortalFederation) -> None:
    assert federation.deaths == []
    assert federation.run_through(1).state == operator_pb2.RUN_STATE_COMPLETED
    assert federation.kill("server", signal.SIGTERM) == 0
    assert_sound(federation)
