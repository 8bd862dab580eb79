"""A training run, one round at a time."""

from __future__ import annotations

import logging
import time

from sqlalchemy import Connection

from server.federation import Federation
from server.global_model import Step
from server.interruption import WorkInterruptedError
from server.records import RoundOutcome, RoundPhase, Run, RunState, Version
from server.retrying import pause
from server.room import is_full
from server.rounds import NotEnoughClientsError, RoundOrder, Rounds, missing_text
from server.state import release_rows, round_rows, version_rows
from server.state.commits import Commit
from server.state.database import StateUnavailableError
from server.state.fencing import FencedError

log = logging.getLogger("server.training")


class TrainingDriver:
    """Drives the active run; it goes on where it was, whatever came between."""

    def __init__(self, federation: Federation, rounds: Rounds) -> None:
        self._federation = federation
        self._rounds = rounds

    async def step(self, run: Run) -> None:
        """Runs the next round of a run, or ends a run that cannot go on."""
        order = RoundOrder(RoundPhase.TRAINING, run.policy, run.config, run_id=run.id)
        try:
            ended = await self._rounds.play(order, self._commit_of(run))
        except NotEnoughClientsError as error:
            await self._give_up(run, str(error))
        except (WorkInterruptedError, FencedError, StateUnavailableError):
            raise
        except Exception as fault:
            if is_full(fault):
                raise  # the run goes on by itself once there is room
            log.exception("a training round failed")
            await self._retry_or_give_up(run, f"{type(fault).__name__}; see the server's log")
        else:
            if ended.outcome is RoundOutcome.FAILED:
                await self._retry_or_give_up(run, missing_text(ended))

    def _commit_of(self, run: Run) -> Step:
        keep_newest = self._federation.defaults.keep_versions

        def commit(connection: Connection, version: Version) -> None:
            round_rows.count_round(connection, run.id)
            if release_rows.may_release(connection):
                version_rows.set_released(connection, version.number)
            if keep_newest:
                oldest = version.number - keep_newest + 1
                version_rows.destroy(connection, before=oldest, by=f"run-{run.id}", now=time.time())

        return commit

    async def _retry_or_give_up(self, run: Run, why: str) -> None:
        federation = self._federation
        failures = await federation.database.read(
            lambda c: round_rows.failures_in_a_row(c, run_id=run.id)
        )
        if failures > federation.defaults.round_retries:
            await self._give_up(run, f"{failures} rounds in a row failed; {why}")
            return
        await pause(federation, failures, f"a failed round of run {run.id}", why)

    async def _give_up(self, run: Run, failure: str) -> None:
        log.error("run %d failed: %s", run.id, failure)
        await self._federation.database.write(
            Commit.RUN_FAILED, lambda c: round_rows.end_run(c, run.id, RunState.FAILED, failure)
        )
        self._federation.changes.beat()
