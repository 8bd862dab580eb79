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

from fednot import calls
from fednot.errors import FednotError, Reason
from fednot.layer_choice import choose
from fednot.layer_map import LayerMap
from server import approvals
from server.clock import Clock
from server.federation import Federation
from server.interruption import WorkInterruptedError
from server.ledger.file import Key
from server.ledger.requests import note_asked
from server.method_needs import check_needs
from server.methods import method_named
from server.records import (
    Approval,
    AuditEvent,
    Caller,
    Deletion,
    DeletionAsk,
    Job,
    JobPhase,
    Run,
    RunState,
    Version,
    WaitKind,
)
from server.resumption import take_over
from server.room import is_full
from server.rounds import Rounds
from server.state import (
    audit_rows,
    deletion_rows,
    job_rows,
    release_rows,
    round_rows,
    version_rows,
)
from server.state.commits import Commit
from server.state.fencing import FencedError
from server.training import TrainingDriver
from server.unlearning import UnlearningDriver

log = logging.getLogger("server.coordinator")

T = TypeVar("T")
IDLE_TICK = 5.0
FAULT_WAIT = 5.0
ROOM_TICK = 1.0
CONFIRMATION_SECONDS = 60.0


class Coordinator:
    """Runs the federation's work, and takes requests for more."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        rounds = Rounds(federation)
        self._training = TrainingDriver(federation, rounds)
        self._unlearning = UnlearningDriver(federation, rounds)
        self._clock = Clock(federation)

    async def recover_state(self) -> None:
        """After a start: takes over or aborts rounds that were running, reloads the fences."""
        federation = self._federation
        current = federation.model.current.number
        kept, aborted = await federation.database.write(
            Commit.ROUNDS_TAKEN_OVER, lambda c: take_over(c, current, time.time())
        )
        for begun in kept:
            log.info("round %d was running when the server stopped; it goes on", begun.number)
        if aborted:
            log.warning("rounds %s were running when the server stopped; aborted", aborted)
        await federation.reload_fences()

    async def run(self) -> None:
        """Works until it is cancelled. A fault is logged, shown, and tried again after a pause."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._work())
            tasks.create_task(self._clock.run())

    async def _work(self) -> None:
        while True:
            calls.begin(calls.Origin())
            mark = self._federation.changes.mark()
            try:
                if not await self._step_and_sweep():
                    await self._federation.changes.wait(IDLE_TICK, mark)
            except (WorkInterruptedError, FencedError):
                log.info("the work in hand was interrupted")
            except Exception as fault:
                log.exception("a step failed; trying again in %g s", FAULT_WAIT)
                self._federation.waits_for(*_retried_after(fault))
                await asyncio.sleep(FAULT_WAIT)
                self._federation.waits_no_more()

    async def _step_and_sweep(self) -> bool:
        """Deletes what the step before left behind while the next one waits for clients."""
        await self._catch_up()
        sweeping = asyncio.create_task(self._federation.model.sweep())
        try:
            stepped = await self._step()
        except BaseException:
            # What else goes wrong must not take the place of this, least of all of a cancellation.
            await asyncio.gather(sweeping, return_exceptions=True)
            raise
        await sweeping
        return stepped

    async def _catch_up(self) -> None:
        """After a commit whose outcome is unknown: takes over what the state says."""
        federation = self._federation
        if federation.database.unsure:
            federation.database.unsure = False
            try:
                await federation.model.catch_up()
                await federation.reload_fences()
            except BaseException:
                federation.database.unsure = True
                raise

    async def _step(self) -> bool:
        self._federation.work.look_anew()
        job, run = await self._federation.database.read(_agenda)
        if job is not None or run is not None:
            await self._federation.work.run(self._await_room())
        if job is not None:
            calls.begin(job.origin, job=job.id)
            await self._federation.work.run(self._await_confirmations(job))
            await self._unlearning.step(job)
        elif run is not None:
            calls.begin(calls.Origin(run.call_id, run.traceparent), run=run.id)
            await self._training.step(run)
        return job is not None or run is not None

    async def _await_room(self) -> None:
        federation = self._federation
        try:
            while shortage := federation.room.shortage():
                federation.waits_for(WaitKind.ROOM, f"waiting for room: {shortage}")
                await asyncio.sleep(ROOM_TICK)
        finally:
            federation.waits_no_more()

    async def _await_confirmations(self, job: Job) -> None:
        """Gives the clients that are there a moment to bar what a job forgets, before it begins.

        Those that have not by then take no part until they have.
        """
        federation = self._federation
        told = {each.client for each in job.orders if not each.refusal}
        until = time.monotonic() + CONFIRMATION_SECONDS
        if job.phase is not JobPhase.QUEUED or not told:
            return
        try:
            while (left := until - time.monotonic()) > 0:
                mark = federation.changes.mark()
                there = federation.cohort.connected() & told
                owing = sorted(name for name in there if federation.fences.owes(name))
                if not owing:
                    return
                names = ", ".join(owing)
                sentence = f"waiting for {names} to bar what {job.id} forgets, at most {left:.0f} s"
                federation.waits_for(WaitKind.CONFIRMATION, sentence)
                await federation.changes.wait(min(left, ROOM_TICK), mark)
        finally:
            federation.waits_no_more()

    async def accept(self, ask: DeletionAsk) -> Deletion:
        """Accepts a deletion: when this returns, its scope is fenced and nothing in flight has it.

        The same request again returns the same deletion. Raises FednotError for a request that
        cannot be met, which then has changed nothing.
        """
        return await _to_its_end(self._accept(ask))

    async def cancel(self, request_id: str, caller: Caller) -> Deletion:
        """Cancels a deletion that waits. Raises FednotError if it cannot be cancelled."""
        return await _to_its_end(self._cancel(request_id, caller))

    async def lift_hold(self, request_id: str, caller: Caller) -> Deletion:
        """Lifts a deletion's legal hold. Raises FednotError (UNKNOWN_DELETION, NO_HOLD)."""

        def command(connection: Connection) -> Deletion:
            now = time.time()
            deletion, is_new = deletion_rows.lift_hold(connection, request_id, caller, now)
            if is_new:
                _note_deletion(connection, deletion, caller, "DeletionService.LiftHold", now)
            return deletion

        deletion = await self._federation.database.write(Commit.HOLD_LIFTED, command)
        self._federation.changes.beat()
        return deletion

    async def approve(self, approval_id: str, caller: Caller) -> Approval:
        """Approves what another identity asked for; a deletion's job then queues.

        Raises FednotError (UNKNOWN_APPROVAL, APPROVAL_ENDED, SECOND_PERSON_NEEDED).
        """
        return await _to_its_end(self._approve(approval_id, caller))

    async def refuse(self, approval_id: str, caller: Caller) -> Approval:
        """Refuses what was asked for; a deletion is cancelled and its fence lifted.

        Raises FednotError (UNKNOWN_APPROVAL, APPROVAL_ENDED).
        """
        return await _to_its_end(
            self._refenced(
                Commit.REFUSED, lambda c: approvals.refuse(c, approval_id, caller, time.time())
            )
        )

    async def readmit(self, client: str, caller: Caller) -> Approval | None:
        """Lifts a client's bar, or returns the second approval that this waits for.

        Raises FednotError (UNKNOWN_CLIENT, CLIENT_NOT_BARRED, DELETION_IN_PROGRESS).
        """

        def command(connection: Connection) -> Approval | None:
            now = time.time()
            until = self._approval_until(now)
            return approvals.readmit(connection, client, caller, now, approval_until=until)

        return await _to_its_end(self._refenced(Commit.CLIENT_READMITTED, command))

    async def start_training(self, run: Run, caller: Caller) -> Run:
        """Starts a run. Raises FednotError (TRAINING_ACTIVE, NO_SPACE)."""
        self._federation.room.check()

        def command(connection: Connection) -> Run:
            event = AuditEvent(caller, "OperatorService.StartTraining")
            audit_rows.append(connection, event, time.time())
            return round_rows.start_run(connection, run)

        started = await self._federation.database.write(Commit.TRAINING_STARTED, command)
        self._federation.changes.beat()
        return started

    async def stop_training(self, caller: Caller) -> Run:
        """Stops the active run and aborts its round. Raises FednotError (TRAINING_NOT_ACTIVE)."""
        return await _to_its_end(self._stop_training(caller))

    async def _accept(self, ask: DeletionAsk) -> Deletion:
        federation = self._federation
        method = method_named(ask.method)
        ask = replace(ask, method=method.name, layers=ask.layers or "first")
        layers = federation.model.layers
        known = await federation.database.read(lambda c: deletion_rows.repeated(c, ask))
        if known is not None:
            await federation.reload_fences()  # which the first call may not have come to yet
            return known

        def command(connection: Connection) -> tuple[Deletion, bool]:
            known = deletion_rows.repeated(connection, ask)
            if known is not None:
                return known, False
            current, _ = version_rows.current_and_released(connection)
            if method.needs.layers:
                negated = current.negated_tensors if current else ()
                _check_layers(ask, layers, negated if method.negates else ())
            if current is not None:
                check_needs(federation, method, ask.scopes, connection, current.number)
            now = time.time()
            until = self._approval_until(now)
            deletion = deletion_rows.accept(connection, ask, now, approval_until=until)
            _note_deletion(connection, deletion, ask.caller, "DeletionService.Unlearn", now)
            if ask.retain:
                _note_deletion(connection, deletion, ask.caller, "deletion.held", now)
            note_asked(connection, federation.ledger, Key(ask.caller.key, ask.request_id), now)
            return deletion, True

        deletion, is_new = await federation.database.write(Commit.DELETION_ACCEPTED, command)
        await federation.reload_fences()
        if is_new:
            federation.forgettings.tell()
            await self._interrupt()
            job_id = deletion.job.id
            said = "deletion %s accepted; %s is fenced"
            log.info(said, ask.request_id, job_id, extra={"job": job_id})
        return deletion

    async def _cancel(self, request_id: str, caller: Caller) -> Deletion:
        federation = self._federation

        def command(connection: Connection) -> tuple[Deletion, bool]:
            now = time.time()
            served = job_rows.first_ready_id(connection)
            deletion = deletion_rows.cancel(connection, request_id, caller, now)
            _note_deletion(connection, deletion, caller, "DeletionService.CancelDeletion", now)
            return deletion, served == deletion.job.id

        deletion, was_served = await federation.database.write(Commit.DELETION_CANCELLED, command)
        await federation.reload_fences()
        federation.forgettings.tell()
        if was_served:  # else the work in hand is another job's, and its round goes on
            await self._interrupt()
        return deletion

    async def _approve(self, approval_id: str, caller: Caller) -> Approval:
        def command(connection: Connection) -> tuple[Approval, bool]:
            now = time.time()
            nothing_served = not job_rows.first_ready_id(connection)
            approval, is_new = approvals.approve(connection, approval_id, caller, now)
            goes_first = is_new and nothing_served and bool(job_rows.first_ready_id(connection))
            if goes_first:  # training gives way, as it does to a deletion without approval
                round_rows.abort_running_rounds(connection, now)
            return approval, goes_first

        approval, goes_first = await self._federation.database.write(Commit.APPROVED, command)
        await self._federation.reload_fences()
        if goes_first:
            await self._interrupt()
        return approval

    async def _stop_training(self, caller: Caller) -> Run:
        def command(connection: Connection) -> tuple[Run, bool]:
            now = time.time()
            run = round_rows.active_run(connection)
            if run is None:
                raise FednotError(Reason.TRAINING_NOT_ACTIVE, "no training run is active")
            trains = not job_rows.first_ready_id(connection)
            if trains:
                round_rows.abort_running_rounds(connection, now)
            event = AuditEvent(caller, "OperatorService.StopTraining")
            audit_rows.append(connection, event, now)
            return round_rows.end_run(connection, run.id, RunState.STOPPED), trains

        run, trains = await self._federation.database.write(Commit.TRAINING_STOPPED, command)
        if trains:
            await self._interrupt()
        self._federation.changes.beat()
        return run

    async def _refenced(self, commit: Commit, command: Callable[[Connection], T]) -> T:
        result = await self._federation.database.write(commit, command)
        await self._federation.reload_fences()
        self._federation.forgettings.tell()
        return result

    async def _interrupt(self) -> None:
        await self._federation.work.interrupt()
        self._federation.changes.beat()

    def _approval_until(self, now: float) -> float | None:
        defaults = self._federation.defaults
        return now + defaults.approval_expiry if defaults.require_approval else None


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    # A caller that hangs up cancels its call, but what is on disk then must take effect here too.
    return await asyncio.shield(asyncio.create_task(work))


def _agenda(connection: Connection) -> tuple[Job | None, Run | None]:
    return job_rows.first_ready(connection), round_rows.active_run(connection)


def _retried_after(fault: Exception) -> tuple[WaitKind, str]:
    reason = fault.reason if isinstance(fault, FednotError) else None
    if reason is Reason.NO_SPACE or is_full(fault):
        return WaitKind.ROOM, "waiting for room: the disk was full in the middle of a step"
    what = reason or type(fault).__name__
    return WaitKind.FAULT, f"retrying after a fault ({what}; see the server's log)"


def _note_deletion(
    connection: Connection, deletion: Deletion, caller: Caller, action: str, now: float
) -> None:
    for subject in deletion_rows.subjects_of(deletion.scopes):
        event = AuditEvent(caller, action, subject, job_id=deletion.job.id)
        audit_rows.append(connection, event, now)


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
    jobs = job_rows.open_jobs(connection)
    if jobs:
        why = f"{len(jobs)} deletion(s) have not completed; wait for them (`fednot jobs`)"
    elif not release_rows.may_release(connection):
        why = (
            "a deletion failed, and the model may still hold what was to be forgotten; "
            "ask for it again, or by the method retrain"
        )
    else:
        why = "no training round has completed yet; train first (`fednot train`)"
    raise FednotError(Reason.NOT_RELEASED, f"no version is released: {why}")
