"""The steps that a method takes between an attempt's start and its recovery, one at a time.

Each makes a version; a server that starts again goes on with the next one. What a step of clients
received when it was interrupted is dropped, and the step is taken anew.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from sqlalchemy import Connection

from fednot import tracing
from server.blocks import Block
from server.cohorts.cohort import ForgottenData, UnlearningOrder, WorkKind, WorkPlan
from server.divergence import ROUNDS, only_diverged
from server.evaluation import finite
from server.federation import Federation
from server.global_model import Draft
from server.methods import Method, method_named
from server.methods.method import (
    ClientStep,
    Participants,
    PastRound,
    ServerStep,
    Step,
    StepContext,
    WithoutSteps,
)
from server.records import (
    Attempt,
    Job,
    KeptUpdate,
    RoundPhase,
    ScopeKind,
    Version,
    VersionOrigin,
    WaitKind,
)
from server.retrying import pause
from server.rounds import Rounds
from server.starting_point import context_of
from server.state import client_rows, forget_rows, job_rows, kept_update_rows, round_rows
from server.state.commits import Commit
from server.state.fencing import FencedError
from server.summing import Handling, Sum, Summing
from server.verification.scoping import forgotten_by

log = logging.getLogger("server.steps")

TICK: Final = 1.0
TARGET_TRIES: Final = 3
"""So often a step is begun whose target then fails or is lost."""


class StepFailedError(Exception):
    """A step cannot be taken: a client whose data is forgotten did not do its part, or what the
    clients train diverges. The message says which.
    """


class StepDriver:
    """Takes the steps of attempts."""

    def __init__(self, federation: Federation, rounds: Rounds) -> None:
        self._federation = federation
        self._rounds = rounds
        self._summing = Summing(federation)
        self._failures: dict[str, int] = {}

    async def next(self, job: Job, attempt: Attempt) -> Step | None:
        """The step that an attempt takes next; None once it has taken all."""
        method = method_named(attempt.method)
        if isinstance(method, WithoutSteps):
            return None
        context = await self._context(job, attempt, method)
        if len(attempt.steps) >= method.steps(context):
            return None
        return method.step(len(attempt.steps) + 1, context)

    async def take(self, job: Job, attempt: Attempt, step: Step, time_left: float) -> None:
        """Takes a step and commits the version that it made, or waits to try it again.

        Raises NotEnoughClientsError, StepFailedError, WorkInterruptedError, FencedError;
        ModelStoreError if something that the step is made from is lost.
        """
        with tracing.span("method step", step=len(attempt.steps) + 1, method=attempt.method):
            await self._take(job, attempt, step, time_left)

    async def _take(self, job: Job, attempt: Attempt, step: Step, time_left: float) -> None:
        number = len(attempt.steps) + 1
        if isinstance(step, ServerStep):
            flat = await self._federation.work.run(self._changed(step))
            await self._commit(attempt, flat, await self._passed_on(job, step), frozenset())
        else:
            summed, retained = await self._federation.work.run(
                self._worked(job, attempt, step, time_left)
            )
            if summed.model is None:
                await self._pause(job, number, summed)
                return
            counted = frozenset(retained) - summed.missing.keys()
            await self._commit(attempt, summed.model, summed.kept, counted)
        self._failures.pop(job.id, None)
        log.info("%s attempt %d: step %d was taken", job.id, attempt.number, number)

    async def _changed(self, step: ServerStep) -> torch.Tensor:
        over = threading.Event()
        try:
            return await asyncio.to_thread(step.change, over.is_set)
        finally:
            over.set()

    async def _worked(
        self, job: Job, attempt: Attempt, step: ClientStep, time_left: float
    ) -> tuple[Sum, tuple[str, ...]]:
        federation = self._federation
        targets: Mapping[str, ForgottenData] = {}
        if step.who is not Participants.RETAINED:
            targets = forgotten_by(job.scopes)
            await self._await_targets(targets, min(federation.defaults.target_wait, time_left))
        retained: tuple[str, ...] = ()
        if step.who is not Participants.TARGET:
            what = f"step {len(attempt.steps) + 1} of {attempt.method}"
            found = await self._rounds.gathered(job.policy.min_clients, time_left, what)
            retained = tuple(name for name in found if name not in targets)
        plan = await self._plan(job, attempt, step, retained, targets)
        handling = Handling(step.transformed, keeps=step.keeps)
        quorum = federation.defaults.rounds.quorum
        try:
            summed = await self._summing.sum(plan, Block.of(plan.flat), quorum, handling)
        finally:
            federation.shows(None)
        away = {name: summed.missing[name] for name in targets if name in summed.missing}
        if away:
            log.warning("%s: the part of %s is missing", job.id, away)
        if away and self._failures.get(job.id, 0) + 1 >= TARGET_TRIES:
            who = _of(targets, away)
            raise StepFailedError(f"{who} did not do its part; the server's log says why")
        return (replace(summed, model=None) if away else summed), retained

    async def _plan(
        self,
        job: Job,
        attempt: Attempt,
        step: ClientStep,
        retained: tuple[str, ...],
        targets: Mapping[str, ForgottenData],
    ) -> WorkPlan:
        defaults, reference = self._federation.defaults, step.reference
        run = await self._federation.database.read(round_rows.latest_run)
        order = UnlearningOrder(
            job_id=job.id,
            works=dict.fromkeys(retained, step.work) | dict.fromkeys(targets, step.target_work),
            forgotten=targets,
            counts=_counts(job),
            reference=await asyncio.to_thread(reference) if reference is not None else None,
        )
        return WorkPlan(
            kind=WorkKind.TRAIN,
            round=0,
            phase=RoundPhase.UNLEARNING,
            version=self._federation.model.current,
            flat=await asyncio.to_thread(step.given),
            clients=(*retained, *targets),
            deadline=job.policy.round_deadline,
            seed=defaults.seed + 1009 * attempt.number + len(attempt.steps),
            config={**(run.config if run else {}), **step.config},
            unlearning=order,
        )

    async def _await_targets(self, targets: Mapping[str, ForgottenData], seconds: float) -> None:
        federation = self._federation
        until = time.monotonic() + seconds
        try:
            while away := sorted(targets.keys() - federation.cohort.connected()):
                left = until - time.monotonic()
                if left <= 0:
                    raise StepFailedError(f"{_of(targets, away)} did not come in {seconds:.0f} s")
                federation.waits_for(
                    WaitKind.CLIENTS, f"waiting for {', '.join(away)} to help forget its data"
                )
                await federation.cohort.wait_for_change(min(left, TICK))
        finally:
            federation.waits_no_more()

    async def _pause(self, job: Job, number: int, summed: Sum) -> None:
        failures = self._failures[job.id] = self._failures.get(job.id, 0) + 1
        if failures >= ROUNDS and only_diverged(summed.missing):
            raise StepFailedError(f"{ROUNDS} tries in a row diverged")
        why = "; ".join(f"{name}: {reason}" for name, reason in summed.missing.items())
        await pause(self._federation, failures, f"step {number} of {job.id}", why)

    async def _commit(
        self,
        attempt: Attempt,
        flat: torch.Tensor | Block,
        kept: tuple[KeptUpdate, ...],
        counted: frozenset[str],
    ) -> None:
        federation, current = self._federation, self._federation.model.current
        block = flat if isinstance(flat, Block) else Block.of(flat)
        metrics = {}
        if federation.evaluator is not None:
            upcoming = replace(current, number=current.number + 1)
            scoring = self._rounds.score(block.tensor, upcoming, federation.defaults.target_wait)
            metrics = finite(await federation.work.run(scoring))
        draft = Draft(
            flat=block,
            origin=VersionOrigin.UNLEARNING,
            parent=current.number,
            generation=current.generation,
            lineage=current.lineage,
            negated_tensors=current.negated_tensors,
            metrics=metrics,
        )

        def commit(connection: Connection, version: Version) -> None:
            _check_fences(connection, counted)
            kept_update_rows.insert_updates(connection, kept)
            job_rows.add_step(connection, attempt, version.number)

        await federation.model.commit(Commit.STEP_TAKEN, draft, commit)

    async def _context(self, job: Job, attempt: Attempt, method: Method) -> StepContext:
        federation = self._federation
        base, flat = await federation.model.read(job.base_version)
        start = await context_of(federation, method, attempt.tensors, base, flat)
        loop = asyncio.get_running_loop()
        made = [attempt.start_version, *attempt.steps]
        data = federation.server_data
        return StepContext(
            start=start,
            made=[partial(self._read, loop, number) for number in made],
            forgotten=frozenset(
                scope.client for scope in job.scopes if scope.kind is ScopeKind.CLIENT
            ),
            share=await self._share(job),
            history=await self._history(job, method),
            task=data.task,
            proxy=data.proxy if method.needs.proxy else None,
        )

    def _read(self, loop: asyncio.AbstractEventLoop, number: int) -> torch.Tensor:
        reading = self._federation.model.read(number)
        _, flat = asyncio.run_coroutine_threadsafe(reading, loop).result()
        return flat

    async def _history(self, job: Job, method: Method) -> Sequence[PastRound]:
        if not method.needs.history:
            return ()
        manifest = self._federation.model.manifest
        return await self._federation.history.rounds_of(job.base_version, manifest)

    async def _passed_on(self, job: Job, step: ServerStep) -> tuple[KeptUpdate, ...]:
        """The rows of a kept round that is part of what a step made, for the new lineage."""
        if step.past is None:
            return ()
        found = await self._federation.database.read(
            lambda c: kept_update_rows.of_line(c, job.base_version)
        )
        clients = {update.client for update in step.past.updates}
        current = self._federation.model.current.number
        rounds, stride = found or [()], max(1, self._federation.history.interval)
        return tuple(
            replace(row, base_version=current, stride=stride)
            for row in rounds[0]
            if row.client in clients
        )

    async def _share(self, job: Job) -> float:
        """The forgotten examples as a share of all that made the model, as far as it is known."""
        known = await self._federation.database.read(client_rows.list_clients)
        fences = self._federation.fences
        held = {each.name: each.num_train_examples for each in known}
        goes, barred = 0, {scope.client for scope in job.scopes if scope.kind is ScopeKind.CLIENT}
        for scope in job.scopes:
            if scope.kind is ScopeKind.CLIENT:
                goes += held.get(scope.client, 0)
            elif scope.client not in barred:
                goes += scope.count or 0
        stays = sum(count for name, count in held.items() if fences.may_train(name))
        return goes / (goes + stays) if goes else 0.0


def _of(targets: Collection[str], away: Collection[str]) -> str:
    """Who is away: receipts quote this, so it names nobody and repeats no client's words."""
    return f"{len(away)} of {len(targets)} clients whose data is forgotten"


def _counts(job: Job) -> dict[str, int]:
    found: dict[str, int] = {}
    for scope in job.scopes:
        if scope.kind is ScopeKind.SAMPLES:
            found[scope.client] = found.get(scope.client, 0) + (scope.count or 0)
    return found


def _check_fences(connection: Connection, counted: frozenset[str]) -> None:
    """Raises FencedError if a client whose update counts may not train any more."""
    barred = {bar.client for bar in client_rows.list_bars(connection)}
    overtaken = counted & (barred | forget_rows.owing(connection).keys())
    if overtaken:
        raise FencedError(f"{', '.join(sorted(overtaken))} was barred while a step was taken")
