"""Verifies a job's attempt: the recovered model as it stands, and after the undo attack.

Nothing of it is kept but what was found: a server that starts again verifies again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from server.blocks import Block
from server.cohorts.cohort import SampleGroup
from server.federation import Federation
from server.interruption import WorkInterruptedError
from server.methods import method_named
from server.methods.negation import Negation, negated_block
from server.records import (
    Attempt,
    Finding,
    Job,
    Judged,
    Thresholds,
    Verdict,
    Verification,
)
from server.room import is_full
from server.rounds import NotEnoughClientsError, Rounds, Trial, TrialFailedError
from server.starting_point import context_of
from server.state import round_rows
from server.state.database import StateUnavailableError
from server.state.fencing import FencedError
from server.verification.looking import Eyes, View
from server.verification.undoing import RECOVERED, Undoing, undoing, undone_name
from server.verification.verdicts import judge, judge_depth

log = logging.getLogger("server.verification")


_Attack = Callable[[], Block | None]
"""Makes a model of the undo attack; None if there is nothing to undo."""


@dataclass(frozen=True)
class _Undone:
    findings: tuple[Finding, ...]
    gap: str
    note: str


class Verifier:
    """Verifies attempts of jobs, with the clients and with what the server holds."""

    def __init__(self, federation: Federation, rounds: Rounds) -> None:
        self._federation = federation
        self._rounds = rounds

    async def verify(self, job: Job, attempt: Attempt, flat: torch.Tensor) -> Verification:
        """Verdicts on a model that an attempt made, uint8 of shape [nbytes].

        What goes wrong on the way makes both verdicts NOT_POSSIBLE; only a state that is not there,
        a full disk, and an interruption are passed on.
        """
        if not self._federation.defaults.verification.enabled:
            return self._not_possible("verification is switched off on this server.")
        try:
            return await self._verify(job, attempt, flat)
        except (StateUnavailableError, FencedError, WorkInterruptedError):
            raise
        except Exception as fault:
            if is_full(fault):
                raise
            log.exception("%s could not be verified", job.id)
            return self._not_possible(
                f"verification failed: {type(fault).__name__}, see the server's log."
            )

    async def _verify(self, job: Job, attempt: Attempt, flat: torch.Tensor) -> Verification:
        policy = self._federation.defaults.verification
        eyes = await self._eyes(job)
        was_verified = any(earlier.verification for earlier in job.attempts)
        await eyes.await_holders(0.0 if was_verified else policy.wait)
        seen = await eyes.look(flat)
        found = [_finding(RECOVERED, 0, seen)]
        behaviour = judge(seen.figures, policy.thresholds, missing=eyes.missing)
        undone = await self._undone(job, attempt, flat, eyes, can_tell=_can_tell(seen))
        depth = judge_depth(
            found[0],
            undone.findings,
            policy.thresholds,
            missing=eyes.missing,
            gap=undone.gap,
            note=undone.note,
        )
        if not _can_tell(seen):
            depth = behaviour
        unasked = eyes.uncovered()
        return Verification(
            behaviour=_unless_unasked(behaviour, unasked),
            depth=_unless_unasked(depth, unasked),
            findings=(*found, *undone.findings),
            thresholds=policy.thresholds,
            found_at=time.time(),
            forgotten=seen.groups.get(SampleGroup.FORGOTTEN),
            unseen=seen.groups.get(SampleGroup.UNSEEN),
            probe_sha256=eyes.looking.sha256,
        )

    async def _eyes(self, job: Job) -> Eyes:
        looking = await asyncio.to_thread(self._federation.server_data.opened, job.scopes)
        return Eyes(self._federation, job, job.scopes, looking)

    async def _undone(
        self, job: Job, attempt: Attempt, flat: torch.Tensor, eyes: Eyes, *, can_tell: bool
    ) -> _Undone:
        federation, policy = self._federation, self._federation.defaults.verification
        if not can_tell:
            return _Undone((), "", "")
        plan: Undoing = undoing(federation.model.layers, attempt.tensors, policy.undo_layers)
        found: list[Finding] = []
        gaps: list[str] = []
        notes = [plan.note] if plan.note else []
        attacks = [*await self._own(job, attempt, flat), *self._negations(plan, flat)]
        for name, make in attacks:
            model = await asyncio.to_thread(make)
            if model is None:
                continue
            found.append(_finding(name, 0, await eyes.look(model.tensor)))
            if not policy.undo_rounds:
                continue
            try:
                model = await self._played_on(job, model, policy.undo_rounds)
            except (NotEnoughClientsError, TrialFailedError) as error:
                if isinstance(error, TrialFailedError) and error.diverged:
                    notes.append(f"Rounds after it was {name} diverged.")
                    continue
                gaps.append(f"the rounds after the undo attack could not be run: {error}")
                break
            found.append(_finding(name, policy.undo_rounds, await eyes.look(model.tensor)))
        return _Undone(tuple(found), "; ".join(gaps), " ".join(notes))

    def _negations(self, plan: Undoing, flat: torch.Tensor) -> list[tuple[str, _Attack]]:
        given, manifest = Block.of(flat), self._federation.model.manifest
        memory = self._federation.memory
        return [
            (undone_name(", ".join(one)), partial(negated_block, given, manifest, one, memory))
            for one in plan.sets
        ]

    async def _own(
        self, job: Job, attempt: Attempt, flat: torch.Tensor
    ) -> list[tuple[str, _Attack]]:
        """What the attempt's method itself can undo, where that is more than negations."""
        method = method_named(attempt.method)
        if isinstance(method, Negation):
            return []
        federation = self._federation
        base, base_flat = await federation.model.read(job.base_version)
        context = await context_of(federation, method, attempt.tensors, base, base_flat)

        def undo() -> Block | None:
            model = method.undone(context, flat)
            return None if model is None else Block.of(model)

        return [(undone_name(method.name), undo)]

    async def _played_on(self, job: Job, model: Block, rounds: int) -> Block:
        run = await self._federation.database.read(round_rows.latest_run)
        for turn in range(1, rounds + 1):
            trial = Trial(
                model,
                turn,
                config=dict(run.config) if run else {},
                quorum=self._federation.defaults.rounds.quorum,
                deadline=job.policy.round_deadline,
                min_clients=job.policy.min_clients,
                client_wait=self._federation.defaults.verification.wait,
            )
            model = await self._rounds.trial(trial)
        return model

    def _not_possible(self, why: str) -> Verification:
        judged = Judged(Verdict.NOT_POSSIBLE, why)
        thresholds: Thresholds = self._federation.defaults.verification.thresholds
        return Verification(judged, judged, (), thresholds, time.time())


def _can_tell(seen: View) -> bool:
    return "auc" in seen.figures or "trigger_effect" in seen.figures


def _finding(model: str, rounds: int, seen: View) -> Finding:
    found = Finding(model, rounds, dict(seen.figures))
    told = ", ".join(f"{key} {value:.3f}" for key, value in sorted(found.figures.items()))
    log.info("%s, %d rounds: %s", found.model, rounds, told)
    return found


def _unless_unasked(judged: Judged, unasked: Sequence[str]) -> Judged:
    """What nobody could look for cannot pass."""
    if judged.verdict is not Verdict.PASS or not unasked:
        return judged
    return Judged(
        Verdict.NOT_POSSIBLE,
        f"nobody could look for what {', '.join(unasked)} had; of the others: {judged.reason}",
    )
