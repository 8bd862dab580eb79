"""Rounds that were left running, in one process: what becomes of them and of their run."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from sqlalchemy import Connection
from support.in_process import POLL, InProcessFederation, in_process
from support.small_digits import SmallDigits
from support.state import BY_TEST, new_round
from torch import nn

from fednot import SampleDataset, TrainContext, TrainResult
from server.federation import Defaults
from server.records import Round, RoundOutcome, RoundPolicy, Run, RunState
from server.state import round_rows

COMPLETED, ABORTED = RoundOutcome.COMPLETED, RoundOutcome.ABORTED


class FailsInRound1(SmallDigits):
    """As if nobody had come back after the restart."""

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        if context.round == 1:
            raise RuntimeError("it is not there")
        return super().train(model, data, context)


async def ended(federation: InProcessFederation, **left: object) -> tuple[Run, list[Round]]:
    """The run and its rounds, once it has gone on from a round that was left running."""

    def begin(c: Connection) -> None:
        round_rows.start_run(
            c, Run(0, 2, 0, RunState.ACTIVE, time.time(), RoundPolicy(min_clients=1), {})
        )
        now = time.time()
        round_rows.start_round(c, new_round("c0", started_at=now, **left))

    database = federation.federation.database
    await database.write(BY_TEST, begin)
    federation.federation.changes.beat()
    async with asyncio.timeout(60):
        while True:
            run = await database.read(round_rows.latest_run)
            if run is not None and run.state is not RunState.ACTIVE:
                break
            await asyncio.sleep(POLL)
    return run, list(reversed(await database.read(lambda c: round_rows.list_rounds(c, 0, 10))))


async def test_a_round_of_the_run_goes_on_with_its_cohort(tmp_path: Path) -> None:
    """Only c0 was drawn when the round began."""
    tasks = {f"c{index}": SmallDigits(str(index)) for index in range(2)}
    async with in_process(tmp_path, SmallDigits(trace="no"), tasks, Defaults()) as federation:
        run, rounds = await ended(federation)
    assert (run.state, run.rounds_done) == (RunState.COMPLETED, 2)
    assert [(row.number, row.outcome, row.cohort) for row in rounds] == [
        (1, COMPLETED, ("c0",)),
        (2, COMPLETED, ("c0", "c1")),
    ]


async def test_a_round_that_nobody_comes_back_to_is_not_the_runs_failure(tmp_path: Path) -> None:
    """With no retry at all a failed round would end the run; an aborted one is begun anew."""
    task, defaults = FailsInRound1("0"), Defaults(round_retries=0)
    async with in_process(tmp_path, SmallDigits(trace="no"), {"c0": task}, defaults) as federation:
        run, rounds = await ended(federation)
    assert (run.state, run.rounds_done) == (RunState.COMPLETED, 2)
    assert [row.outcome for row in rounds] == [ABORTED, COMPLETED, COMPLETED]
    assert dict(rounds[0].missing) == {"c0": "RuntimeError: it is not there"}


async def test_a_round_that_no_longer_stands_is_aborted(tmp_path: Path) -> None:
    """Its base, version 0, is not the current one."""
    task = SmallDigits("0")
    async with in_process(tmp_path, SmallDigits(trace="no"), {"c0": task}, Defaults()) as found:
        run, rounds = await ended(found, base_version=0)
    assert (run.state, run.rounds_done) == (RunState.COMPLETED, 2)
    assert [row.outcome for row in rounds] == [ABORTED, COMPLETED, COMPLETED]
