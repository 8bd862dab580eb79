from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Never, cast

import pytest

from fednot.cli import interrupts, unlearning
from fednot.cli.failures import unreachable
from fednot.cli.output import Format, Output
from fednot.cli.session import Session
from fednot.cli.waiting import Patience
from fednot.v1 import deletion_pb2


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


class Swallows:
    """A session whose call is interrupted, which a callback swallows, and then fails."""

    def __init__(self) -> None:
        self.output = Output(Format.TABLE)
        self.deletions = SimpleNamespace(Unlearn=None)
        self.asked = 0

    def call(self, _method: object, _request: object) -> Never:
        self.asked += 1
        with contextlib.suppress(KeyboardInterrupt):
            press()
        raise unreachable("the server cannot be reached")


def test_who_interrupts_the_asking_for_a_deletion_has_it_asked_for_no_more() -> None:
    session = Swallows()
    with pytest.raises(KeyboardInterrupt):
        unlearning._sent(cast("Session", session), deletion_pb2.UnlearnRequest(request_id="r1"))
    assert session.asked == 1


def test_an_interrupted_process_ends_though_a_thread_of_another_does_not() -> None:
    """As gRPC's may, which the interpreter's own end would wait for."""
    code = """
import sys, threading, time
from fednot.cli import interrupts
threading.Thread(target=time.sleep, args=(60,)).start()
sys.stdout.write("told")
interrupts.leave(130)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=200)
    assert (ended.returncode, ended.stdout) == (130, b"told")


def test_who_presses_again_and_again_reads_the_last_words_and_gets_the_exit_code() -> None:
    code = """
import os, signal
from fednot.cli import interrupts, session
from fednot.cli.output import Format, Output

def press(*_):
    os.kill(os.getpid(), signal.SIGINT)

class Interrupted(Output):
    def note(self, text):
        press()
        super().note(text)

interrupts.heed()
session._guarded(Interrupted(Format.TABLE), press)
press()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")
