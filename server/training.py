"""A training run, one round at a time."""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy import Connection

from server.federation import Federation
from server.global_model import Step
from server.records import Round, RoundOutcome, RoundPhase, Run, RunState, Version
from server.rounds import NotEnoughClientsError, RoundOrder, Rounds
from server.state import deletion_rows, round_rows, version_rows

log = logging.getLogger("server.training")


class TrainingDriver:
    """Drives the active run; it goes on where it was, whatever came between."""

    def __init__(self, federation: Federation, rounds: Rounds) -> None:
        self._federation = federation
        self._rounds = rounds
        self._failures = 0

    async def step(self, run: Run) -> None:
        """Runs the next round of a run, or ends a run that cannot go on."""
        order = RoundOrder(RoundPhase.TRAINING, run.policy, run.config, run_id=run.id)
        try:
            ended = await self._rounds.play(order, self._commit_of(run))
        except NotEnoughClientsError as error:
            await self._give_up(run, str(error))
            return
        if ended.outcome is RoundOutcome.FAILED:
            await self._retry_or_give_up(run, ended)
            return
        self._failures = 0
        await self._federation.model.sweep()

    def _commit_of(self, run: Run) -> Step:
        keep_newest = self._federation.defaults.keep_versions

        def commit(connection: Connection, version: Version) -> None:
            round_rows.count_round(connection, run.id)
            if deletion_rows.may_release(connection):
                version_rows.set_released(connection, version.number)
            if keep_newest:
                oldest = version.number - keep_newest + 1
                version_rows.destroy(
                    connection, keep=(), before=oldest, by=f"run-{run.id}", now=time.time()
                )

        return commit

    async def _retry_or_give_up(self, run: Run, ended: Round) -> None:
        self._failures += 1
        retries = self._federation.defaults.round_retries
        missing = "; ".join(f"{name}: {why}" for name, why in ended.missing.items())
        if self._failures > retries:
            self._failures = 0
            await self._give_up(
                run, f"{retries + 1} rounds in a row reached no quorum; missing {missing}"
            )
            return
        wait = self._federation.defaults.retry_wait * self._failures
        self._federation.waits_for(f"retrying a round without quorum in {wait:g} s: {missing}")
        try:
            await self._federation.work.run(asyncio.sleep(wait))
        finally:
            self._federation.waits_for("")

    async def _give_up(self, run: Run, failure: str) -> None:
        log.error("run %d failed: %s", run.id, failure)
        await self._federation.database.run(
            lambda c: round_rows.end_run(c, run.id, RunState.FAILED, failure)
        )
        self._federation.changes.beat()
