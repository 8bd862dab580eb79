"""Any sequence of requests, rounds, negations, endings and restarts keeps the state's promises.

Hypothesis draws the sequences and shortens one that breaks a promise. The rows are those of
production, on SQLite in memory; what the drivers decide (which layer next) is played here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection, create_engine, delete, func, insert, select
from sqlalchemy.pool import StaticPool
from support.state import ask, client, deletion_of, new_round, new_run, version

from fednot.errors import FednotError, Reason
from server.phases import CANCELLABLE, ENDED
from server.records import (
    NOBODY,
    Attempt,
    AttemptOutcome,
    Job,
    JobPhase,
    Round,
    RoundOutcome,
    RoundPhase,
    Version,
)
from server.resumption import take_over
from server.state import (
    client_rows,
    deletion_rows,
    job_rows,
    release_rows,
    round_rows,
    schema,
    standing_rows,
    version_rows,
)
from server.state.fencing import FencedError

T = TypeVar("T")
CLIENTS = ("c1", "c2", "c3", "c4")
PLANS = {"r1": "first", "r2": "first", "r3": "first", "r4": "first", "r5": "last", "r6": "last"}
"""Which layers each request wants: the others of a plan wait for the job that goes first."""
LAYERS = ("conv1", "conv2", "fc1")


class Federation(RuleBasedStateMachine):
    """One state, and what the callers and the coordinator do to it."""

    engine = create_engine("sqlite://", poolclass=StaticPool)
    """One for all sequences, which remembers the text of each statement; each begins emptied."""

    def __init__(self) -> None:
        super().__init__()
        schema.metadata.create_all(self.engine)
        self.now = 100.0
        self.told: dict[str, tuple[str, str]] = {}
        self.barred: set[str] = set()
        self.negations = 0

    def teardown(self) -> None:
        def command(c: Connection) -> None:
            for table in reversed(schema.metadata.sorted_tables):
                if table is not schema.audit:
                    c.execute(delete(table))

        self.write(command)

    def write(self, command: Callable[[Connection], T]) -> T:
        """Runs a command in a transaction, which is undone if the command raises."""
        self.now += 1.0
        with self.engine.connect() as connection, connection.begin():
            return command(connection)

    def read(self, command: Callable[[Connection], T]) -> T:
        with self.engine.connect() as connection:
            return command(connection)

    @property
    def current(self) -> Version:
        found, _ = self.read(version_rows.current_and_released)
        assert found is not None
        return found

    @property
    def job(self) -> Job | None:
        return self.read(job_rows.first_ready)

    def job_in(self, phase: JobPhase) -> Job | None:
        return job if (job := self.job) and job.phase is phase else None

    @property
    def running(self) -> list[Round]:
        found = self.read(lambda c: round_rows.list_rounds(c, 0, 10_000))
        return [row for row in found if row.outcome is RoundOutcome.RUNNING]

    @initialize()
    def begin(self) -> None:
        """Four clients, an initial version, and a run that never ends."""

        def command(c: Connection) -> None:
            c.execute(insert(schema.federation).values(id=1))
            for name in CLIENTS:
                client_rows.record_join(c, client(name))
            version_rows.insert_version(c, version(1, "initial"))
            round_rows.start_run(c, new_run())

        self.write(command)

    @rule(name=st.sampled_from(CLIENTS), request=st.sampled_from(sorted(PLANS)))
    def ask(self, name: str, request: str) -> None:
        """A new request fences at once; a repeated one gives the same job for ever."""
        wanted = replace(ask(request, name, digest=name), layers=PLANS[request])

        def command(c: Connection) -> Any:
            return deletion_rows.repeated(c, wanted) or deletion_rows.accept(c, wanted, self.now)

        try:
            found = self.write(command)
        except FednotError as refusal:
            if refusal.reason not in self.reasons_to_refuse(request, name):
                raise
            return
        assert self.told.setdefault(request, (name, found.job.id)) == (name, found.job.id)
        if found.job.phase not in ENDED:
            assert name in self.barred or found.accepted_at == self.now
            self.barred.add(name)

    def reasons_to_refuse(self, request: str, name: str) -> tuple[Reason, ...]:
        known = self.told.get(request)
        if known and known[0] != name:
            return (Reason.REQUEST_ID_REUSED,)
        if known:
            return ()
        forgotten = (Reason.DELETION_IN_PROGRESS, Reason.CLIENT_ALREADY_FORGOTTEN)
        return (*forgotten, Reason.SERVER_BUSY)

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.told)))
        before = self.read(lambda c: deletion_rows.get_deletion(c, request, NOBODY))
        try:
            self.write(lambda c: deletion_rows.cancel(c, request, NOBODY, self.now))
        except FednotError as refusal:
            if refusal.reason is not Reason.NOT_CANCELLABLE or before.job.phase in CANCELLABLE:
                raise
        else:
            self.barred.discard(before.client)

    @precondition(lambda self: not self.running and self.free_clients())
    @rule()
    def begin_round(self) -> None:
        job = self.job
        try:
            self.write(lambda c: round_rows.start_round(c, self.wanted(job)))
        except FencedError:
            assert job is not None
            assert job.phase is not JobPhase.RECOVERING

    def free_clients(self) -> tuple[str, ...]:
        return tuple(name for name in CLIENTS if name not in self.barred)

    def wanted(self, job: Job | None) -> Round:
        values: dict[str, Any] = {"base_version": self.current.number}
        if job is not None:
            phase = RoundPhase.RECOVERY
            values |= {"phase": phase, "job_id": job.id, "run_id": 0, "attempt": len(job.attempts)}
        return new_round(*self.free_clients(), **values)

    @precondition(lambda self: self.running)
    @rule(outcome=st.sampled_from([RoundOutcome.COMPLETED, RoundOutcome.FAILED]))
    def end_round(self, outcome: RoundOutcome) -> None:
        (row,) = self.running
        current = self.current
        number = current.number + 1

        def command(c: Connection) -> None:
            made = number if outcome is RoundOutcome.COMPLETED else 0
            ended = {"outcome": outcome, "result_version": made, "ended_at": self.now}
            round_rows.end_round(c, Round(**(vars(row) | ended)))
            if not made:
                return
            new = version(
                number,
                row.phase.value,
                generation=current.generation,
                lineage=current.lineage,
                round=row.number,
                negated_tensors=current.negated_tensors,
            )
            version_rows.insert_version(c, new)
            if row.phase is RoundPhase.TRAINING and release_rows.may_release(c):
                version_rows.set_released(c, number)

        self.write(command)

    @precondition(lambda self: self.running)
    @rule()
    def end_an_aborted_round(self) -> None:
        """What comes in for a round that was aborted counts no longer, nor does its version."""
        (row,) = self.running
        self.write(lambda c: round_rows.abort_running_rounds(c, self.now))
        before = self.current.number

        def command(c: Connection) -> None:
            version_rows.insert_version(c, version(before + 1))
            round_rows.end_round(c, Round(**(vars(row) | {"outcome": RoundOutcome.COMPLETED})))

        try:
            self.write(command)
        except FencedError:
            assert self.current.number == before
        else:
            raise AssertionError("an aborted round was completed")

    @precondition(lambda self: self.job_in(JobPhase.QUEUED))
    @rule()
    def pin(self) -> None:
        """The job that begins serves every request with an equal plan that waits just then."""
        job = self.job
        assert job is not None
        equals = {
            request
            for request in self.told
            if PLANS[request] == job.layers and self.phase_of(request) is JobPhase.QUEUED
        }

        def command(c: Connection) -> None:
            pinned = {"base_version": self.current.number}
            job_rows.move(c, job, JobPhase.NEGATING, self.now, **pinned)
            job_rows.merge_equals(c, job, self.now)

        self.write(command)
        for request in equals:
            self.told[request] = (self.told[request][0], job.id)
        found = self.read(lambda c: job_rows.get_job(c, job.id))
        assert set(found.requests) == equals

    def phase_of(self, request: str) -> JobPhase:
        return self.read(lambda c: deletion_of(c, request)).job.phase

    @precondition(lambda self: self.job_in(JobPhase.NEGATING))
    @rule(twice=st.booleans())
    def negate(self, twice: bool) -> None:
        """An attempt from the pinned base; a second one of what was read before is fenced off."""
        job = self.job
        assert job is not None
        base = self.read(lambda c: version_rows.get_version(c, job.base_version))
        assert base is not None
        tried = {tensor for attempt in job.attempts for tensor in attempt.tensors}
        left = [layer for layer in LAYERS if layer not in {*tried, *base.negated_tensors}][:1]
        current = self.current
        number = current.number + 1
        new = version(
            number,
            "unlearning",
            parent=base.number,
            generation=current.generation + 1,
            lineage=base.lineage if left else current.lineage + 1,
            negated_tensors=(*base.negated_tensors, *left) if left else (),
        )

        def command(c: Connection) -> None:
            version_rows.insert_version(c, new)
            attempt = Attempt(job.id, len(job.attempts) + 1, "not", tuple(left), number)
            job_rows.insert_attempt(c, attempt)
            job_rows.move(c, job, JobPhase.RECOVERING, self.now)

        self.write(command)
        self.negations += 1
        if twice:
            self.refused(command)

    def refused(self, command: Callable[[Connection], None]) -> None:
        before = self.current
        try:
            self.write(command)
        except Exception:
            assert self.current == before
        else:
            raise AssertionError("a negation was committed twice")

    @precondition(lambda self: self.job_in(JobPhase.RECOVERING) and not self.running)
    @rule(recovered=st.booleans())
    def end_attempt(self, recovered: bool) -> None:
        job = self.job
        assert job is not None
        outcome = AttemptOutcome.SUCCEEDED if recovered else AttemptOutcome.ABANDONED
        to = JobPhase.VERIFYING if recovered else JobPhase.NEGATING
        last = Attempt(**(vars(job.attempts[-1]) | {"outcome": outcome}))

        def command(c: Connection) -> None:
            job_rows.end_attempt(c, last)
            job_rows.move(c, job, to, self.now)

        self.write(command)

    @precondition(lambda self: self.job_in(JobPhase.VERIFYING))
    @rule()
    def complete(self) -> None:
        job, current = self.job, self.current
        assert job is not None

        def command(c: Connection) -> None:
            version_rows.destroy(c, before=current.number, by=job.id, now=self.now)
            job_rows.move(c, job, JobPhase.COMPLETED, self.now)
            if release_rows.may_release(c):
                version_rows.set_released(c, current.number)

        self.write(command)
        base = self.read(lambda c: version_rows.get_version(c, job.base_version))
        assert base is not None
        assert base.destroyed_at is not None or base.origin == "initial"

    @precondition(lambda self: self.job and not self.running)
    @rule()
    def fail(self) -> None:
        job = self.job
        assert job is not None
        self.write(lambda c: deletion_rows.fail(c, job, "its deadline passed", self.now))

    @precondition(lambda self: self.barred)
    @rule(data=st.data())
    def readmit(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.barred)))
        standing = self.read(lambda c: standing_rows.standing_jobs(c, name))
        if all(each.phase in ENDED for each in standing):
            self.write(lambda c: client_rows.lift_bars_of_client(c, name, self.now))
            self.barred.discard(name)

    @rule()
    def restart(self) -> None:
        """A server that starts goes on with the round that still stands, and aborts any other."""
        current = self.current.number
        kept, _ = self.write(lambda c: take_over(c, current, self.now))
        assert [row.number for row in self.running] == [row.number for row in kept]
        assert all(row.base_version == current for row in kept)

    @invariant()
    def generations_count_negations(self) -> None:
        if self.told:
            assert self.current.generation == self.negations
            counted = select(func.count()).select_from(schema.attempts)
            assert self.read(lambda c: c.execute(counted).scalar()) == self.negations

    @invariant()
    def each_request_is_served(self) -> None:
        """By the job that its caller was told of, or by the one that took it over."""
        for request, (name, job_id) in self.told.items():
            found = self.read(lambda c, request=request: deletion_of(c, request))
            assert (found.client, found.job.id) == (name, job_id)
            assert found.job.phase is not JobPhase.MERGED

    @invariant()
    def no_layer_is_negated_twice_in_a_lineage(self) -> None:
        for row in self.read(lambda c: version_rows.list_versions(c, 0, 10_000)):
            assert len(set(row.negated_tensors)) == len(row.negated_tensors)

    @invariant()
    def bars_are_those_of_the_requests(self) -> None:
        assert {bar.client for bar in self.read(client_rows.list_bars)} == self.barred

    @invariant()
    def nothing_is_released_that_may_hold_the_forgotten(self) -> None:
        def command(c: Connection) -> bool:
            found = c.execute(select(schema.federation.c.released_version)).scalar()
            return not found or release_rows.may_release(c)

        assert self.read(command)

    @invariant()
    def one_round_runs_at_most_and_holds_nobody_barred(self) -> None:
        running = self.running
        assert len(running) <= 1
        assert not {name for row in running for name in row.cohort} & self.barred


Federation.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestFederation = Federation.TestCase
