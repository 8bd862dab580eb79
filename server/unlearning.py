"""A deletion job, one step at a time: each step leaves a state from which the next one goes on."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

import torch
from sqlalchemy import Connection

from fednot.errors import FednotError
from fednot.layer_choice import Choice, choose, next_choice
from server import stop_rule
from server.audit import note_job_end
from server.evaluation import finite
from server.federation import Federation
from server.global_model import Draft
from server.methods import METHODS, Method, method_named
from server.methods.method import StartContext
from server.methods.retrain import Retrain
from server.records import (
    Attempt,
    AttemptOutcome,
    Job,
    JobPhase,
    RoundOutcome,
    RoundPhase,
    RoundPolicy,
    Version,
    VersionOrigin,
)
from server.rounds import NotEnoughClientsError, RoundOrder, Rounds, missing_text
from server.state import deletion_rows, job_rows, round_rows, version_rows
from server.state.commits import Commit
from server.state.database import StateUnavailableError
from server.state.model_store import ModelStoreError, sha256_of
from server.stop_rule import Judgement

log = logging.getLogger("server.unlearning")


class UnlearningDriver:
    """Drives a job through its phases."""

    def __init__(self, federation: Federation, rounds: Rounds) -> None:
        self._federation = federation
        self._rounds = rounds
        self._steps = {
            JobPhase.QUEUED: self._pin_base,
            JobPhase.NEGATING: self._begin_attempt,
            JobPhase.RECOVERING: self._recover,
            JobPhase.VERIFYING: self._verify,
        }

    async def step(self, job: Job) -> None:
        """Takes the next step of an open job."""
        if job.phase is not JobPhase.VERIFYING and not self._time_left(job):
            await self._fail(job, "its deadline passed; nothing was rolled back")
            return
        await self._steps[job.phase](job)
        self._federation.changes.beat()

    async def _pin_base(self, job: Job) -> None:
        """Pins the base version and the accuracy that recovery aims at.

        Target and recovery are scored on the same data, so the base is scored anew: on the
        server's, or on that of the clients that are retained.
        """
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
        values = {"base_version": base.number, "target_accuracy": target}
        await self._move(job, JobPhase.NEGATING, **values)

    async def _begin_attempt(self, job: Job) -> None:
        """Makes the attempt's starting point: exactly one change, committed with the attempt."""
        federation = self._federation
        base, base_flat = await federation.model.read(job.base_version)
        method, choice, explanation = self._next_plan(job, base)
        start = await self._start_of(method, choice.tensors, base_flat)
        attempt = Attempt(
            job_id=job.id,
            number=len(job.attempts) + 1,
            method=method.name,
            tensors=choice.tensors,
            start_version=0,
            warnings=choice.warnings,
            explanation=explanation,
        )
        draft = Draft(
            flat=start,
            origin=VersionOrigin.UNLEARNING,
            parent=base.number,
            generation=federation.model.current.generation + 1,
            lineage=federation.model.current.lineage + 1 if method.new_lineage else base.lineage,
            negated_tensors=() if method.new_lineage else (*base.negated_tensors, *choice.tensors),
        )

        def commit(connection: Connection, version: Version) -> None:
            job_rows.insert_attempt(connection, replace(attempt, start_version=version.number))
            job_rows.move(connection, job, JobPhase.RECOVERING, time.time())

        await federation.model.commit(Commit.ATTEMPT_BEGUN, draft, commit)
        log.info("%s attempt %d: %s", job.id, attempt.number, explanation)

    def _next_plan(self, job: Job, base: Version) -> tuple[Method, Choice, str]:
        method = method_named(job.method)
        if not method.needs.layers:
            return method, Choice((), (), ()), f"{method.name} from version {base.number}"
        layers, negated = self._federation.model.layers, base.negated_tensors
        tried = [tensor for attempt in job.attempts for tensor in attempt.tensors]
        note = ""
        if not job.attempts:
            try:
                choice = choose(
                    layers, job.layers, negated=negated, allow_unsafe=job.allow_unsafe_layers
                )
                return method, choice, f"negates {', '.join(choice.tensors)}"
            except FednotError as error:
                note = f" ({error.message})"
        found = next_choice(layers, tried=tried, negated=negated)
        if found is None:
            return METHODS[Retrain.name], Choice((), (), ()), f"no layer is left to negate{note}"
        return method, found, f"negates the next eligible layer, {', '.join(found.tensors)}{note}"

    async def _start_of(
        self, method: Method, tensors: tuple[str, ...], base: torch.Tensor
    ) -> torch.Tensor:
        federation = self._federation
        initial = None
        if method.needs.initial:
            first = await federation.database.read(version_rows.initial_version)
            _, initial = await federation.model.read(first.number)
        context = StartContext(federation.model.manifest, base, initial, tensors)
        return await asyncio.to_thread(method.start, context)

    async def _recover(self, job: Job) -> None:
        """Runs one recovery round, or ends the attempt if the stop rule says so."""
        attempt = job.attempts[-1]
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
            RoundPhase.RECOVERY, policy, await self._config(), job_id=job.id, attempt=attempt.number
        )
        try:
            ended = await self._rounds.play(order, lambda _connection, _version: None)
        except NotEnoughClientsError as error:
            await self._fail(job, str(error))
            return
        if ended.outcome is RoundOutcome.FAILED:
            wait = self._federation.defaults.retry_wait
            self._federation.waits_for(f"retrying a failed recovery round; {missing_text(ended)}")
            try:
                await self._federation.work.run(asyncio.sleep(wait))
            finally:
                self._federation.waits_for("")

    async def _judge(self, job: Job, attempt: Attempt) -> Judgement:
        federation = self._federation
        method = METHODS[attempt.method]
        trained = 0
        if method.needs.rounds_trained:
            trained = await federation.database.read(
                lambda c: version_rows.rounds_trained(c, job.base_version)
            )
        budget = method.budget(default=federation.defaults.recovery_rounds, rounds_trained=trained)
        return stop_rule.judge(
            [ended.metrics for ended in attempt.rounds],
            policy=job.policy,
            budget=job.policy.max_rounds or budget,
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

        def command(connection: Connection) -> None:
            job_rows.end_attempt(connection, ended)
            job_rows.move(connection, job, to, time.time())

        await self._federation.database.write(Commit.ATTEMPT_ENDED, command)
        log.info("%s attempt %d: %s", job.id, attempt.number, ended.explanation)

    async def _verify(self, job: Job) -> None:
        """Reads back what was stored; destroys the old versions, then releases the new one.

        The job is COMPLETED only once the files are gone. That the base is marked as destroyed says
        that the check was passed, should the server stop in between.
        """
        model, database = self._federation.model, self._federation.database
        current = model.current
        base = await database.read(lambda c: version_rows.get_version(c, job.base_version))
        if base is not None and base.destroyed_at is None:
            failure = await self._stored_fault(job)
            if failure:
                await self._fail(job, failure)
                return
            await database.write(
                Commit.VERSIONS_DESTROYED,
                lambda c: version_rows.destroy(
                    c, before=current.number, by=job.id, now=time.time()
                ),
            )
        await model.sweep()

        def command(connection: Connection) -> None:
            now = time.time()
            job_rows.move(connection, job, JobPhase.COMPLETED, now)
            note_job_end(connection, job.id, JobPhase.COMPLETED, now)
            if deletion_rows.may_release(connection):
                version_rows.set_released(connection, current.number)
                job_rows.set_released_by(connection, job.id, current.number)

        await database.write(Commit.JOB_COMPLETED, command)
        log.info("%s completed with version %d", job.id, current.number)

    async def _stored_fault(self, job: Job) -> str:
        """What is wrong with the stored attempt, or ""."""
        attempt = job.attempts[-1]
        model = self._federation.model
        try:
            base, base_flat = await model.read_back(job.base_version)
            start, _ = await model.read_back(attempt.start_version)
            await model.read_back(model.current.number)
        except StateUnavailableError:
            raise
        except (ModelStoreError, FednotError) as error:
            return f"a version could not be read back: {error}"
        twice = set(attempt.tensors) & set(base.negated_tensors)
        if twice:
            return f"{', '.join(sorted(twice))} would be negated twice in its lineage"
        expected = await self._start_of(METHODS[attempt.method], attempt.tensors, base_flat)
        if await asyncio.to_thread(sha256_of, expected) != start.sha256:
            return f"version {start.number} is not what {attempt.method} makes of {base.number}"
        return ""

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

    async def _move(self, job: Job, to: JobPhase, **values: object) -> None:
        await self._federation.database.write(
            Commit.BASE_PINNED, lambda c: job_rows.move(c, job, to, time.time(), **values)
        )

    async def _fail(self, job: Job, failure: str) -> None:
        log.error("%s failed: %s", job.id, failure)

        def command(connection: Connection) -> None:
            now = time.time()
            deletion_rows.fail(connection, job, failure, now)
            note_job_end(connection, job.id, JobPhase.FAILED, now)

        await self._federation.database.write(Commit.JOB_FAILED, command)
