"""The one task that drives the federation: deletion jobs first, then the active training run.

Whatever it does next follows from the state on disk, so a restarted server goes on where the last
one was. Requests come in from the services; each is durable before it is answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import Connection

from fednot.errors import FednotError, Reason
from fednot.layer_choice import choose
from fednot.layer_map import LayerMap
from server.federation import Federation
from server.interruption import WorkInterruptedError
from server.methods import method_named
from server.records import Deletion, DeletionAsk, Job, JobPhase, Run, RunState, Version
from server.rounds import Rounds
from server.state import client_rows, deletion_rows, round_rows, version_rows
from server.state.fencing import FencedError
from server.training import TrainingDriver
from server.unlearning import UnlearningDriver

log = logging.getLogger("server.coordinator")

T = TypeVar("T")
IDLE_TICK = 5.0
FAULT_WAIT = 5.0


class Coordinator:
    """Runs the federation's work, and takes requests for more."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        rounds = Rounds(federation)
        self._training = TrainingDriver(federation, rounds)
        self._unlearning = UnlearningDriver(federation, rounds)

    async def recover_state(self) -> None:
        """After a start: aborts rounds that the last process left running, reloads the fences."""
        federation = self._federation
        aborted = await federation.database.run(
            lambda c: round_rows.abort_running_rounds(c, time.time())
        )
        if aborted:
            log.warning("rounds %s were running when the server stopped; aborted", list(aborted))
        federation.fences.load(await federation.database.run(client_rows.list_bars))

    async def run(self) -> None:
        """Works until it is cancelled. A fault is logged, shown, and tried again after a pause."""
        while True:
            mark = self._federation.changes.mark()
            try:
                await self._federation.model.sweep()
                if not await self._step():
                    await self._federation.changes.wait(IDLE_TICK, mark)
            except (WorkInterruptedError, FencedError):
                log.info("the work in hand was interrupted")
            except Exception as fault:
                log.exception("a step failed; trying again in %g s", FAULT_WAIT)
                self._federation.waits_for(
                    f"retrying after a fault ({type(fault).__name__}; see the server's log)"
                )
                await asyncio.sleep(FAULT_WAIT)
                self._federation.waits_for("")

    async def _step(self) -> bool:
        job, run = await self._federation.database.run(_agenda)
        if job is not None:
            await self._unlearning.step(job)
        elif run is not None:
            await self._training.step(run)
        return job is not None or run is not None

    async def accept(self, ask: DeletionAsk) -> Deletion:
        """Accepts a deletion: when this returns, its scope is fenced and nothing in flight has it.

        The same request again returns the same deletion. Raises FednotError for a request that
        cannot be met, which then has changed nothing.
        """
        return await _to_its_end(self._accept(ask))

    async def cancel(self, request_id: str) -> Deletion:
        """Cancels a deletion that waits. Raises FednotError if it cannot be cancelled."""
        return await _to_its_end(self._cancel(request_id))

    async def _accept(self, ask: DeletionAsk) -> Deletion:
        federation = self._federation
        method = method_named(ask.method)
        ask = replace(ask, method=method.name, layers=ask.layers or "first")
        layers = federation.model.layers

        def command(connection: Connection) -> tuple[Deletion, bool]:
            known = deletion_rows.repeated(connection, ask)
            if known is not None:
                return known, False
            if method.needs.layers:
                current, _ = version_rows.current_and_released(connection)
                negated = current.negated_tensors if current else ()
                _check_layers(ask, layers, negated)
            return deletion_rows.accept(connection, ask, time.time()), True

        deletion, is_new = await federation.database.run(command)
        federation.fences.load(await federation.database.run(client_rows.list_bars))
        if is_new:
            await self._interrupt()
            log.info("deletion %s accepted; %s is fenced", ask.request_id, deletion.job.id)
        return deletion

    async def _cancel(self, request_id: str) -> Deletion:
        federation = self._federation

        def command(connection: Connection) -> tuple[Deletion, bool]:
            served, _ = _agenda(connection)
            deletion = deletion_rows.cancel(connection, request_id, time.time())
            return deletion, served is not None and served.id == deletion.job.id

        deletion, was_served = await federation.database.run(command)
        federation.fences.load(await federation.database.run(client_rows.list_bars))
        if was_served:  # else the work in hand is another job's, and its round goes on
            await self._interrupt()
        federation.changes.beat()
        return deletion

    async def start_training(self, run: Run) -> Run:
        """Starts a run. Raises FednotError (TRAINING_ACTIVE)."""
        return await self._change(lambda c: round_rows.start_run(c, run))

    async def stop_training(self) -> Run:
        """Stops the active run and aborts its round. Raises FednotError (TRAINING_NOT_ACTIVE)."""

        def command(connection: Connection) -> Run:
            run = round_rows.active_run(connection)
            if run is None:
                raise FednotError(Reason.TRAINING_NOT_ACTIVE, "no training run is active")
            if not deletion_rows.open_jobs(connection):
                round_rows.abort_running_rounds(connection, time.time())
            return round_rows.end_run(connection, run.id, RunState.STOPPED)

        return await self._change(command, interrupt=True)

    async def _change(self, command: Callable[[Connection], T], *, interrupt: bool = False) -> T:
        result = await self._federation.database.run(command)
        if interrupt and not await self._federation.database.run(deletion_rows.open_jobs):
            await self._interrupt()
        self._federation.changes.beat()
        return result

    async def _interrupt(self) -> None:
        await self._federation.work.interrupt()
        self._federation.changes.beat()


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    # A caller that hangs up cancels its call, but what is on disk then must take effect here too.
    return await asyncio.shield(asyncio.create_task(work))


def _agenda(connection: Connection) -> tuple[Job | None, Run | None]:
    ready = [job for job in deletion_rows.open_jobs(connection) if job.phase != JobPhase.AWAITING]
    return (ready[0] if ready else None), round_rows.active_run(connection)


def _check_layers(ask: DeletionAsk, layers: LayerMap, negated: tuple[str, ...]) -> None:
    """Refuses a choice that cannot be met; without an eligible layer the job will retrain."""
    try:
        choose(layers, ask.layers, negated=negated, allow_unsafe=ask.allow_unsafe_layers)
    except FednotError as error:
        if error.reason is not Reason.NO_ELIGIBLE_LAYER:
            raise


def released(connection: Connection) -> Version:
    """The released version. Raises FednotError (NOT_RELEASED) with the reason there is none."""
    _, version = version_rows.current_and_released(connection)
    if version is not None:
        return version
    jobs = deletion_rows.open_jobs(connection)
    if jobs:
        why = f"{len(jobs)} deletion(s) have not completed; wait for them (`fednot jobs`)"
    elif not deletion_rows.may_release(connection):
        why = (
            "a deletion failed, and the model may still hold what was to be forgotten; "
            "ask for it again, or by the method retrain"
        )
    else:
        why = "no training round has completed yet; train first (`fednot train`)"
    raise FednotError(Reason.NOT_RELEASED, f"no version is released: {why}")
