"""The pause before failed work is tried again, and how the server tells what it waits for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.upload_desk import small_federation

from server.cohorts.remote import RemoteCohort, Session
from server.federation import Federation
from server.interruption import WorkInterruptedError
from server.records import WaitKind
from server.retrying import pause, pause_after


@pytest.mark.parametrize(
    ("failures", "first", "seconds"),
    [
        (1, 2.0, 2.0),
        (2, 2.0, 4.0),
        (5, 2.0, 32.0),
        (6, 2.0, 60.0),
        (10_000, 2.0, 60.0),
        (1, 0.0, 0.0),
        (9, 0.0, 0.0),
        (1, 90.0, 90.0),
        (4, 90.0, 90.0),
    ],
)
def test_the_pause_doubles_up_to_a_minute(failures: int, first: float, seconds: float) -> None:
    """2 s, 4 s, 8 s, ... and 64 s is cut to 60 s; who asks for longer pauses gets them."""
    assert pause_after(failures, first) == seconds


async def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


def waiting_since(federation: Federation, kind: WaitKind) -> float:
    text = federation.metrics.render()[0].decode()
    name = f'fednot_waiting_since_timestamp_seconds{{for="{kind}"}} '
    return float(next(row for row in text.splitlines() if row.startswith(name)).split()[-1])


async def test_a_client_that_comes_ends_the_pause_and_all_of_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Thirty seconds would have been waited: the fifth failure doubles two seconds four times."""
    caplog.set_level(logging.INFO)
    async with small_federation(tmp_path) as federation:
        cohort = federation.cohort = RemoteCohort(lapse=60.0)
        cohort.open(Session("c1", 1, 0, "cpu", time.monotonic()))
        before = time.time()
        waiting = asyncio.create_task(pause(federation, 5, "a failed round", "c2: lost"))
        await eventually(lambda: federation.activity.wait is WaitKind.RETRY)
        sentence = "trying a failed round again in 32.0 s; c2: lost"
        assert federation.activity.waiting_for == sentence
        assert sentence in caplog.text
        assert before <= waiting_since(federation, WaitKind.RETRY) <= time.time()
        assert waiting_since(federation, WaitKind.CLIENTS) == 0.0

        cohort.open(Session("c2", 1, 0, "cpu", time.monotonic()))
        await asyncio.wait_for(waiting, 10)
        assert federation.activity.waiting_for == ""
        assert waiting_since(federation, WaitKind.RETRY) == 0.0


async def test_the_pause_is_interrupted_as_all_work_is(tmp_path: Path) -> None:
    async with small_federation(tmp_path) as federation:
        waiting = asyncio.create_task(pause(federation, 5, "a failed round", ""))
        await eventually(lambda: federation.activity.wait is WaitKind.RETRY)
        await federation.work.interrupt()
        with pytest.raises(WorkInterruptedError):
            await waiting
        assert federation.activity.wait is None


async def test_a_wait_that_goes_on_is_logged_once_and_shown_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with small_federation(tmp_path) as federation:
        for seconds in (1, 2, 3):
            federation.waits_for(WaitKind.CLIENTS, f"waiting for c1, last seen {seconds} s ago")
        assert federation.activity.waiting_for.endswith("3 s ago")
        assert caplog.text.count("waiting for c1") == 1
        federation.waits_no_more()
        federation.waits_for(WaitKind.CLIENTS, "waiting for c1, last seen 9 s ago")
        assert caplog.text.count("waiting for c1") == 2
