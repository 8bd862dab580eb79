from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from fednot.cli import interrupts
from fednot.cli.waiting import Patience


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    interrupts.heed()
    yield
    signal.signal(signal.SIGINT, before)
    with contextlib.suppress(KeyboardInterrupt):
        interrupts.check()


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_that_a_callback_swallowed_ends_the_next_wait() -> None:
    patience = Patience(60, "the run")
    with contextlib.suppress(KeyboardInterrupt):
        press()
    with pytest.raises(KeyboardInterrupt):
        patience.pause(30)


def test_an_interrupt_is_heeded_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        press()
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
    Patience(60, "the run").pause(0)


def test_without_an_interrupt_waits_go_on() -> None:
    assert Patience(60, "the run").remaining() > 0
