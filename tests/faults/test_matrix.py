"""The fault matrix: the server dies at each place at which it makes something last."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.faults.scenarios import cases, play

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("place", cases())
def test_nothing_is_lost_and_nothing_is_done_twice(place: str, tmp_path: Path) -> None:
    """The server is killed at the place and started again; everything else goes on by itself."""
    play(place, tmp_path)
