"""The processes that tests start at once."""

from __future__ import annotations

import signal

import pytest
from support.forked import Forked


def test_a_signal_to_a_process_that_has_just_ended_goes_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is gone for the system before its parent is told, and then `poll` says so."""
    process = Forked("support.forked", [])
    assert process.wait(60) is not None
    monkeypatch.setattr(Forked, "poll", lambda _process: None)
    process.send_signal(signal.SIGTERM)
