"""One round: gather clients, send the plan, add up what comes, evaluate, commit."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import structlog
import torch
from sqlalchemy import Connection

from fednot import tracing
from server.blocks import Block
from server.cohorts.cohort import UnlearningOrder, WorkKind, WorkPlan
from server.divergence import only_diverged
from server.evaluation import finite, score_by_clients
from server.federation import Federation
from server.global_model import Draft, Step
from server.interruption import WorkInterruptedError
from server.methods.method import TRAIN
from server.records import (
    ClientRecord,
    Round,
    RoundOutcome,
    RoundPhase,
    RoundPolicy,
    Scores,
    Version,
    VersionOrigin,
    WaitKind,
)
from server.recovery_momentum import with_momentum
from server.resumption import seconds_left, take_over
from server.room import is_full
from server.secure_aggregation.summing import MaskedSumming
from server.state import client_rows, kept_update_rows, round_rows
from server.state.commits import Commit
from server.state.database import StateUnavailableError
from server.state.fencing import FencedError
from server.summing import Handling, Sum, Summing

log = logging.getLogger("server.rounds")

WAIT_TICK = 1.0


class NotEnoughClientsError(Exception):
    """The clients that a round needs did not come in time; the message says which."""


@dataclass(frozen=True)
class RoundOrder:
    """A round to be run, for a run or for an attempt of a job."""

    phase: RoundPhase
    policy: RoundPolicy
    config: Mapping[str, float] = field(default_factory=dict)
    run_id: int = 0
    job_id: str = ""
    attempt: int = 0
    work: str = TRAIN

    def began(self, found: Round) -> bool:
        """Whether a round was begun for the same run, or the same attempt of the same job."""
        ours = (self.phase, self.run_id, self.job_id, self.attempt)
        return ours == (found.phase, found.run_id, found.job_id, found.attempt)


class TrialFailedError(Exception):
    """A trial round had too few updates, or a mean that is not finite; the message says why.

    It `diverged` if nothing but updates that are not finite was in its way.
    """

    def __init__(self, message: str, *, diverged: bool = False) -> None:
        super().__init__(message)
        self.diverged = diverged


@dataclass(frozen=True)
class Trial:
    """A round on a model of its own, whose result is looked at and thrown away.

    `turn` counts the trial rounds in a row, from 1; times in seconds.
    """

    model: Block
    turn: int
    config: Mapping[str, float]
    quorum: float
    deadline: float
    min_clients: int
    client_wait: float


def missing_text(ended: Round) -> str:
    """Whose update did not count in a round, and why, in a sentence; "" if everyone's did."""
    found = "; ".join(f"{name}: {why}" for name, why in ended.missing.items())
    return f"missing {found}" if found else ""


def _drawn(
    clients: tuple[str, ...], policy: RoundPolicy, seed: str, *, fewest: int
) -> tuple[str, ...]:
    if policy.fraction == 1:
        return clients
    size = max(fewest, policy.min_clients, math.ceil(policy.fraction * len(clients)))
    draw = random.Random(seed)  # noqa: S311  # nosec B311 - the same cohort from the same seed
    return tuple(sorted(draw.sample(clients, min(size, len(clients)))))


class Rounds:
    """Runs rounds of a federation, one at a time."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        masking = federation.masking
        self._summing = MaskedSumming(federation, masking) if masking else Summing(federation)

    async def gather(self, minimum: int, wait: float, purpose: str) -> tuple[str, ...]:
        """Waits until enough clients are there, at most `wait` seconds, saying for whom.

        Raises NotEnoughClientsError, or WorkInterruptedError.
        """
        fewest = max(minimum, self._summing.fewest)
        return await self._federation.work.run(self.gathered(fewest, wait, purpose))

    async def play(self, order: RoundOrder, step: Step) -> Round:
        """Runs one round; `step` writes what belongs to a new version with the version itself.

        A round that reaches no quorum, or whose mean is not finite, is returned with the outcome
        FAILED and made no version. Raises NotEnoughClientsError, or WorkInterruptedError: then the
        round is ABORTED and nothing that it received is left. A round of this order that was left
        running goes on; if it then reaches no quorum, it is ABORTED, since that may be the
        restart's fault.
        """
        begun = await self._left_running(order)
        resumed = begun is not None
        if begun is None:
            policy, purpose = order.policy, f"a {order.phase} round"
            clients = await self.gather(policy.min_clients, policy.client_wait, purpose)
            begun = await self._begin(order, clients)
        span = tracing.span(f"{order.phase} round", round=begun.number, clients=len(begun.cohort))
        try:
            with span as recorded, structlog.contextvars.bound_contextvars(round=begun.number):
                ended = await self._to_its_end(order, begun, step, resumed=resumed)
                recorded.set(outcome=ended.outcome.value)
        except (WorkInterruptedError, FencedError) as error:
            await self._close(begun, RoundOutcome.ABORTED)
            log.info("round %d was aborted; what it had received is dropped", begun.number)
            raise WorkInterruptedError from error
        except Exception as fault:
            passes = isinstance(fault, StateUnavailableError) or is_full(fault)
            await self._close(begun, RoundOutcome.ABORTED if passes else RoundOutcome.FAILED)
            raise
        else:
            return ended
        finally:
            self._federation.shows(None)

    async def trial(self, trial: Trial) -> Block:
        """Averages one round of the eligible clients over a model; there is no version and no row.

        Call it in interruptible work. Raises NotEnoughClientsError, or TrialFailedError.
        """
        federation, model = self._federation, trial.model
        fewest = max(trial.min_clients, self._summing.fewest)
        clients = await self.gathered(fewest, trial.client_wait, "a verification round")
        current = federation.model.current
        plan = WorkPlan(
            kind=WorkKind.TRAIN,
            round=0,
            phase=RoundPhase.VERIFICATION,
            version=replace(current, sha256=f"{current.sha256}/trial-{trial.turn}"),
            flat=model.tensor,
            release=model.release,
            clients=clients,
            deadline=trial.deadline,
            seed=federation.defaults.seed + trial.turn,
            config=trial.config,
        )
        try:
            summed = await self._summing.sum(plan, model, trial.quorum)
        finally:
            federation.shows(None)
        if summed.model is None:
            told = "; ".join(f"{name}: {why}" for name, why in summed.missing.items())
            why = f"missing {told}" if told else "no update counted"
            raise TrialFailedError(why, diverged=only_diverged(summed.missing))
        return summed.model

    async def _close(self, begun: Round, outcome: RoundOutcome) -> None:
        now = time.time()
        progress = self._federation.activity.progress
        dropped = len(progress.accepted) if progress else 0
        self._federation.metrics.rounds.updates("dropped", dropped)
        self._federation.metrics.rounds.ended(begun.phase, outcome, now - begun.started_at)
        await self._federation.database.write(
            Commit.ROUND_CLOSED, lambda c: round_rows.close_round(c, begun.number, outcome, now)
        )

    async def score(self, flat: torch.Tensor, version: Version, deadline: float) -> Scores:
        """Evaluates a model on the server's test data, else on that of the eligible clients."""
        federation = self._federation
        if federation.evaluator is not None:
            return await federation.evaluator.score(flat, federation.model.manifest)
        clients = tuple(c for c in federation.eligible() if federation.cohort.can_evaluate(c))
        if not clients:
            return {}
        kind, phase = WorkKind.EVALUATE, RoundPhase.TRAINING
        plan = WorkPlan(kind, 0, phase, version, flat, clients, deadline)
        return await score_by_clients(federation.cohort, plan)

    async def gathered(self, minimum: int, wait: float, purpose: str) -> tuple[str, ...]:
        """As `gather`, in interruptible work of the caller."""
        federation = self._federation
        until = time.monotonic() + wait
        try:
            while len(clients := federation.eligible()) < minimum:
                left = until - time.monotonic()
                sentence = await self._missing(minimum, clients, purpose)
                if left <= 0:
                    raise NotEnoughClientsError(f"after {wait:g} s still {sentence}")
                federation.waits_for(WaitKind.CLIENTS, sentence)
                await federation.cohort.wait_for_change(min(left, WAIT_TICK))
            return clients
        finally:
            federation.waits_no_more()

    async def _missing(self, minimum: int, clients: tuple[str, ...], purpose: str) -> str:
        known = await self._federation.database.read(client_rows.list_clients)
        gone = [
            f"{client.name}, last seen {self._silence(client):.0f} s ago"
            for client in known
            if client.name not in clients and not client.barred_by
        ]
        more = minimum - len(clients)
        names = f": {'; '.join(gone)}" if gone else "; none that may train is known and gone"
        return f"waiting for {more} of {minimum} clients for {purpose}{names}"

    def _silence(self, client: ClientRecord) -> float:
        seen = self._federation.cohort.last_seen(client.name)
        return max(0.0, time.time() - max(seen or 0.0, client.last_seen_at))

    async def _begin(self, order: RoundOrder, clients: tuple[str, ...]) -> Round:
        federation = self._federation
        version = federation.model.current
        upcoming = await federation.database.read(round_rows.next_number)
        new = Round(
            number=0,
            phase=order.phase,
            outcome=RoundOutcome.RUNNING,
            base_version=version.number,
            cohort=_drawn(
                clients,
                order.policy,
                f"{federation.defaults.seed}/{upcoming}",
                fewest=self._summing.fewest,
            ),
            started_at=time.time(),
            run_id=order.run_id,
            job_id=order.job_id,
            attempt=order.attempt,
        )
        return await federation.database.write(
            Commit.ROUND_BEGUN, lambda c: round_rows.start_round(c, new)
        )

    async def _left_running(self, order: RoundOrder) -> Round | None:
        """The round of this order that an earlier process, or a fault, left running.

        Whatever else was left running is aborted: nobody will go on with it.
        """

        def command(connection: Connection) -> Round | None:
            now = time.time()
            kept, _ = take_over(connection, self._federation.model.current.number, now)
            found = None
            for left in kept:
                if order.began(left) and found is None:
                    found = left
                else:
                    round_rows.close_round(connection, left.number, RoundOutcome.ABORTED, now)
            return found

        database = self._federation.database
        if not await database.read(round_rows.running_rounds):
            return None
        return await database.write(Commit.ROUND_RESUMED, command)

    async def _to_its_end(
        self, order: RoundOrder, begun: Round, step: Step, *, resumed: bool
    ) -> Round:
        federation = self._federation
        base = federation.model.current
        handling = Handling(keeps=await federation.history.keeps(base.number))
        summing = partial(
            self._summing.sum,
            self._plan(order, begun, base, resumed=resumed),
            federation.model.block,
            order.policy.quorum,
            handling,
        )
        summed = await federation.work.run(with_momentum(federation, order.phase, base, summing))
        if summed.model is None:
            outcome = RoundOutcome.ABORTED if resumed else RoundOutcome.FAILED
            return await self._without_result(begun, summed, outcome)
        upcoming = replace(base, number=base.number + 1)
        scoring = self.score(summed.model.tensor, upcoming, order.policy.deadline)
        metrics = {**summed.metrics, **finite(await federation.work.run(scoring))}
        outcome = RoundOutcome.DEGRADED if summed.missing else RoundOutcome.COMPLETED
        ended = replace(
            begun, outcome=outcome, missing=summed.missing, metrics=metrics, ended_at=time.time()
        )
        draft = Draft(
            flat=summed.model,
            origin=VersionOrigin(order.phase.value),
            parent=base.number,
            generation=base.generation,
            lineage=base.lineage,
            round=begun.number,
            negated_tensors=base.negated_tensors,
            metrics=metrics,
        )

        def commit(connection: Connection, version: Version) -> None:
            round_rows.end_round(connection, replace(ended, result_version=version.number))
            kept_update_rows.insert_updates(connection, summed.kept)
            step(connection, version)

        version = await federation.model.commit(Commit.ROUND_COMPLETED, draft, commit)
        self._report(ended)
        return replace(ended, result_version=version.number)

    def _plan(self, order: RoundOrder, begun: Round, base: Version, *, resumed: bool) -> WorkPlan:
        given, deadline = self._federation.model.block, order.policy.deadline
        if resumed:
            deadline = seconds_left(begun, deadline, time.time())
            log.info("round %d goes on for at most %.0f s", begun.number, deadline)
        named = None
        if order.work != TRAIN:
            named = UnlearningOrder(order.job_id, dict.fromkeys(begun.cohort, order.work))
        return WorkPlan(
            kind=WorkKind.TRAIN,
            round=begun.number,
            phase=order.phase,
            version=base,
            flat=given.tensor,
            release=given.release,
            clients=begun.cohort,
            deadline=deadline,
            seed=self._federation.defaults.seed,
            config=order.config,
            resumed=resumed,
            unlearning=named,
        )

    async def _without_result(self, begun: Round, summed: Sum, outcome: RoundOutcome) -> Round:
        ended = replace(begun, outcome=outcome, missing=summed.missing, ended_at=time.time())
        await self._federation.database.write(
            Commit.ROUND_FAILED, lambda c: round_rows.end_round(c, ended)
        )
        self._report(ended)
        return ended

    def _report(self, ended: Round) -> None:
        seconds = (ended.ended_at or ended.started_at) - ended.started_at
        self._federation.metrics.rounds.ended(ended.phase, ended.outcome, seconds)
        missing = missing_text(ended)
        log.info(
            "%s round %d %s in %.1f s%s%s",
            ended.phase,
            ended.number,
            ended.outcome,
            seconds,
            f", accuracy {ended.metrics['accuracy']:.4f}" if "accuracy" in ended.metrics else "",
            f"; {missing}" if missing else "",
            extra={
                "round": ended.number,
                "phase": ended.phase.value,
                "outcome": ended.outcome.value,
                "seconds": round(seconds, 3),
                "missing": dict(ended.missing),
            },
        )
