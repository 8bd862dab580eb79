"""A deletion job, one step at a time: each step leaves a state from which the next one goes on."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Final

from sqlalchemy import Connection

from fednot import tracing
from fednot.errors import FednotError
from server import stop_rule
from server.assurance import AssuranceDriver, best_attempt
from server.audit import note_job_end
from server.completion import Completion
from server.divergence import ROUNDS, only_diverged
from server.evaluation import finite
from server.federation import Federation
from server.global_model import Draft
from server.ladder import rounds_of
from server.method_needs import check_needs
from server.methods import method_named
from server.methods.retrain import Retrain
from server.plans import Plan, next_plan, retrained
from server.records import (
    Attempt,
    AttemptOutcome,
    Job,
    JobPhase,
    RoundOutcome,
    RoundPhase,
    RoundPolicy,
    StopReason,
    Version,
    VersionOrigin,
)
from server.retrying import pause
from server.rounds import NotEnoughClientsError, RoundOrder, Rounds, missing_text
from server.starting_point import starting_point
from server.state import deletion_rows, job_rows, round_rows, version_rows
from server.state.commits import Commit
from server.state.model_store import ModelStoreError
from server.steps import StepDriver, StepFailedError
from server.stop_rule import Judgement

log = logging.getLogger("server.unlearning")

LOST: Final = "an update or a version that the next one is made from is lost or was altered"


_SPANS: Final = {JobPhase.NEGATING: "negation", JobPhase.VERIFYING: "verifying"}
"""The phases whose steps are each a span; a recovery round is one by itself."""


class UnlearningDriver:
    """Drives a job through its phases."""

    def __init__(self, federation: Federation, rounds: Rounds) -> None:
        self._federation = federation
        self._rounds = rounds
        self._completion = Completion(federation)
        self._assurance = AssuranceDriver(federation, rounds)
        self._steps = StepDriver(federation, rounds)
        self._phases = {
            JobPhase.QUEUED: self._pin_base,
            JobPhase.NEGATING: self._begin_attempt,
            JobPhase.RECOVERING: self._recover,
            JobPhase.VERIFYING: self._verify,
        }

    async def step(self, job: Job) -> None:
        """Takes the next step of an open job."""
        if job.phase is not JobPhase.VERIFYING and not self._time_left(job):
            await self._give_up(job, "its deadline passed; nothing was rolled back")
            return
        if job.phase in _SPANS:
            with tracing.span(_SPANS[job.phase], job=job.id, attempt=len(job.attempts)):
                await self._phases[job.phase](job)
        else:
            await self._phases[job.phase](job)
        self._federation.changes.beat()

    async def _pin_base(self, job: Job) -> None:
        """Pins the base version and the accuracy that recovery aims at.

        Target and recovery are scored on the same data, so the base is scored anew: on the
        server's, or on that of the clients that are retained.
        """
        tracing.past("queued", job.queued_at, job=job.id)
        model = self._federation.model
        base, flat = model.current, model.flat
        accuracy = None
        if base.round:
            by_clients = self._federation.evaluator is None
            if by_clients and not await self._gather(job, "the evaluation before a deletion"):
                return
            scoring = self._rounds.score(flat, base, job.policy.round_deadline)
            accuracy = finite(await self._federation.work.run(scoring)).get("accuracy")
        target = None if accuracy is None else accuracy - job.policy.tolerance
        await self._pin(job, base_version=base.number, target_accuracy=target)

    async def _pin(self, job: Job, **values: object) -> None:
        """Begins, and takes over the requests of every job that waits with an equal plan."""

        def command(connection: Connection) -> tuple[str, ...]:
            now = time.time()
            job_rows.move(connection, job, JobPhase.NEGATING, now, **values)
            return job_rows.merge_equals(connection, job, now)

        merged = await self._federation.database.write(Commit.BASE_PINNED, command)
        if merged:
            log.info("%s serves the requests of %s too", job.id, ", ".join(merged))

    async def _begin_attempt(self, job: Job) -> None:
        """Makes the attempt's starting point: exactly one change, committed with the attempt."""
        federation = self._federation
        base, base_flat = await federation.model.read(job.base_version)
        plan = next_plan(
            job, federation.model.layers, base.negated_tensors, federation.defaults.ladder
        )
        if plan is None:
            await self._assurance.choose(job)
            return
        plan = await self._possible(job, plan)
        method, choice, explanation = plan.method, plan.choice, plan.explanation
        start = await starting_point(federation, method, choice.tensors, base, base_flat)
        attempt = Attempt(
            job_id=job.id,
            number=len(job.attempts) + 1,
            method=method.name,
            tensors=choice.tensors,
            start_version=0,
            warnings=choice.warnings,
            explanation=explanation,
            rung=plan.rung,
        )
        negated = choice.tensors if method.negates else ()
        draft = Draft(
            flat=start,
            origin=VersionOrigin.UNLEARNING,
            parent=base.number,
            generation=federation.model.current.generation + 1,
            lineage=federation.model.current.lineage + 1 if method.new_lineage else base.lineage,
            negated_tensors=() if method.new_lineage else (*base.negated_tensors, *negated),
        )

        def commit(connection: Connection, version: Version) -> None:
            job_rows.insert_attempt(connection, replace(attempt, start_version=version.number))
            job_rows.move(connection, job, JobPhase.RECOVERING, time.time())

        await federation.model.commit(Commit.ATTEMPT_BEGUN, draft, commit)
        _told(job, attempt)

    async def _possible(self, job: Job, plan: Plan) -> Plan:
        """The plan, or to retrain if something that it needs is gone since it was asked for."""
        federation = self._federation

        def check(connection: Connection) -> None:
            check_needs(federation, plan.method, job.scopes, connection, job.base_version)

        try:
            await federation.database.read(check)
        except FednotError as error:
            return replace(retrained(f"{error.message}; retrain"), rung=plan.rung)
        return plan

    async def _recover(self, job: Job) -> None:
        """Takes a step of the method, or runs one recovery round, or ends the attempt."""
        attempt = job.attempts[-1]
        if await self._step(job, attempt):
            return
        judgement = await self._judge(job, attempt)
        if judgement.done:
            await self._end_attempt(job, attempt, judgement)
            return
        policy = RoundPolicy(
            fraction=1.0,
            quorum=self._federation.defaults.rounds.quorum,
            deadline=job.policy.round_deadline,
            min_clients=job.policy.min_clients,
            client_wait=self._time_left(job),
        )
        order = RoundOrder(
            RoundPhase.RECOVERY,
            policy,
            await self._config(),
            job_id=job.id,
            attempt=attempt.number,
            work=method_named(attempt.method).recovery_work,
        )
        try:
            ended = await self._rounds.play(order, lambda _connection, _version: None)
        except NotEnoughClientsError as error:
            await self._give_up(job, str(error))
            return
        if ended.outcome is RoundOutcome.FAILED:
            failures = await self._federation.database.read(
                lambda c: round_rows.failures_in_a_row(c, job_id=job.id)
            )
            if (
                only_diverged(ended.missing)
                and failures >= ROUNDS
                and attempt.method != Retrain.name
            ):
                why = f"{ROUNDS} rounds in a row diverged"
                await self._abandon(job, attempt, f"after {len(attempt.rounds)} rounds: {why}")
                return
            what = f"a failed recovery round of {job.id}"
            await pause(self._federation, failures, what, missing_text(ended))

    async def _step(self, job: Job, attempt: Attempt) -> bool:
        """Takes the next step of the attempt's method; False if there is none left."""
        step = await self._steps.next(job, attempt)
        if step is None:
            return False
        try:
            await self._steps.take(job, attempt, step, self._time_left(job))
        except NotEnoughClientsError as error:
            await self._give_up(job, str(error))
        except StepFailedError as error:
            await self._abandon(job, attempt, f"after {len(attempt.steps)} steps: {error}")
        except ModelStoreError as error:
            log.warning("%s: %s", job.id, error)
            await self._abandon(job, attempt, f"after {len(attempt.steps)} steps: {LOST}")
        return True

    async def _abandon(self, job: Job, attempt: Attempt, why: str) -> None:
        """Ends an attempt that cannot go on; the next one takes the next layer, or retrains."""
        ended = replace(
            attempt,
            outcome=AttemptOutcome.ABANDONED,
            explanation=f"{attempt.explanation}; abandoned {why}",
        )
        await self._write_end(job, ended, JobPhase.NEGATING)

    async def _judge(self, job: Job, attempt: Attempt) -> Judgement:
        federation = self._federation
        method = method_named(attempt.method)
        trained = 0
        if method.needs.rounds_trained:
            trained = await federation.database.read(
                lambda c: version_rows.rounds_trained(c, job.base_version)
            )
        budget = method.budget(default=federation.defaults.recovery_rounds, rounds_trained=trained)
        policy, asked = job.policy, job.policy.max_rounds
        if attempt.rung and (wanted := rounds_of(federation.defaults.ladder, attempt.rung)):
            policy, asked = replace(policy, full_budget=True), wanted
        return stop_rule.judge(
            [ended.metrics for ended in attempt.rounds],
            policy=policy,
            budget=asked or budget,
            target=job.target_accuracy,
            has_alternative=method.needs.layers,
        )

    async def _end_attempt(self, job: Job, attempt: Attempt, judgement: Judgement) -> None:
        outcome = AttemptOutcome.SUCCEEDED if judgement.recovered else AttemptOutcome.ABANDONED
        verb = "stopped" if judgement.recovered else "abandoned"
        reason = judgement.reason
        ended = replace(
            attempt,
            outcome=outcome,
            stop_reason=reason,
            stopped_at=judgement.stopped_at,
            explanation=f"{attempt.explanation}; {verb} after round {judgement.stopped_at} "
            f"of {len(attempt.rounds)}: {reason}",
        )
        to = JobPhase.VERIFYING if judgement.recovered else JobPhase.NEGATING
        await self._write_end(job, ended, to)

    async def _write_end(self, job: Job, ended: Attempt, to: JobPhase) -> None:
        def command(connection: Connection) -> None:
            job_rows.end_attempt(connection, ended)
            job_rows.move(connection, job, to, time.time())

        await self._federation.database.write(Commit.ATTEMPT_ENDED, command)
        _told(job, ended)

    async def _verify(self, job: Job) -> None:
        """Checks what was stored, then has it verified, then settled, then completed."""
        last = job.attempts[-1]
        if job.chosen_attempt or await self._completion.has_begun(job):
            failure = await self._completion.step(job)
        elif last.outcome is not AttemptOutcome.SUCCEEDED or last.verification is not None:
            failure = ""
            await self._assurance.choose(job)
        else:
            failure = await self._completion.stored_fault(job)
            if not failure:
                await self._assurance.verify(job, may_go_on=self._time_left(job) > 0)
        if failure:
            await self._fail(job, failure)

    async def _config(self) -> dict[str, float]:
        run = await self._federation.database.read(round_rows.latest_run)
        return dict(run.config) if run else {}

    async def _gather(self, job: Job, purpose: str) -> bool:
        try:
            await self._rounds.gather(job.policy.min_clients, self._time_left(job), purpose)
        except NotEnoughClientsError as error:
            await self._fail(job, str(error))
            return False
        return True

    def _time_left(self, job: Job) -> float:
        return max(0.0, job.queued_at + self._federation.defaults.job_deadline - time.time())

    async def _give_up(self, job: Job, why: str) -> None:
        """Fails a job that cannot go on, unless an earlier attempt of it can be kept."""
        if best_attempt(job) is None:
            await self._fail(job, why)
            return
        log.warning("%s goes on with an earlier attempt: %s", job.id, why)
        if job.phase is JobPhase.RECOVERING:
            attempt = job.attempts[-1]
            over = Judgement(
                done=True,
                recovered=False,
                stopped_at=len(attempt.rounds),
                reason=StopReason.BUDGET,
            )
            await self._end_attempt(job, attempt, over)
        else:
            await self._assurance.choose(job)

    async def _fail(self, job: Job, failure: str) -> None:
        log.error("%s failed: %s", job.id, failure, extra={"outcome": "failed"})

        def command(connection: Connection) -> None:
            now = time.time()
            deletion_rows.fail(connection, job, failure, now)
            note_job_end(connection, job.id, JobPhase.FAILED, now)

        await self._federation.database.write(Commit.JOB_FAILED, command)


def _told(job: Job, attempt: Attempt) -> None:
    fields = {"attempt": attempt.number, "method": attempt.method, "outcome": attempt.outcome.value}
    log.info("%s attempt %d: %s", job.id, attempt.number, attempt.explanation, extra=fields)
