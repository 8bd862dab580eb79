"""Training runs and rounds in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from fednot.errors import FednotError, Reason
from server.phases import NOT_READY
from server.records import (
    JobPhase,
    Round,
    RoundOutcome,
    RoundPhase,
    RoundPolicy,
    Run,
    RunState,
)
from server.state import client_rows, forget_rows
from server.state.fencing import FencedError
from server.state.schema import jobs, rounds, runs, versions


def start_run(connection: Connection, run: Run) -> Run:
    """Adds a run and gives it its id. Raises FednotError (TRAINING_ACTIVE) if one is active."""
    if active_run(connection) is not None:
        raise FednotError(Reason.TRAINING_ACTIVE, "a training run is active already")
    run_id = (connection.execute(select(func.max(runs.c.id))).scalar() or 0) + 1
    row = asdict(run) | {"id": run_id, "config": dict(run.config)}
    connection.execute(insert(runs).values(**row))
    return get_run(connection, run_id)


def active_run(connection: Connection) -> Run | None:
    """The run that has rounds left."""
    row = connection.execute(select(runs).where(runs.c.state == RunState.ACTIVE)).first()
    return _run(row) if row else None


def latest_run(connection: Connection) -> Run | None:
    """The run that was started last."""
    row = connection.execute(select(runs).order_by(runs.c.id.desc()).limit(1)).first()
    return _run(row) if row else None


def get_run(connection: Connection, run_id: int) -> Run:
    """The run of an id. Raises LookupError if there is none."""
    row = connection.execute(select(runs).where(runs.c.id == run_id)).first()
    if row is None:
        raise LookupError(f"there is no run {run_id}")
    return _run(row)


def end_run(connection: Connection, run_id: int, state: RunState, failure: str = "") -> Run:
    """Ends a run; one that has ended stays as it is."""
    active = (runs.c.id == run_id, runs.c.state == RunState.ACTIVE)
    connection.execute(update(runs).where(*active).values(state=state, failure=failure))
    return get_run(connection, run_id)


def count_round(connection: Connection, run_id: int) -> None:
    """Counts a completed round of a run, and completes the run with its last one.

    Raises FencedError if the run has ended.
    """
    run = get_run(connection, run_id)
    if run.state is not RunState.ACTIVE:
        raise FencedError(f"run {run_id} is {run.state}")
    done = run.rounds_done + 1
    state = RunState.COMPLETED if done >= run.rounds else run.state
    connection.execute(
        update(runs).where(runs.c.id == run_id).values(rounds_done=done, state=state)
    )


def next_number(connection: Connection) -> int:
    """The number that the next round will get."""
    return (connection.execute(select(func.max(rounds.c.number))).scalar() or 0) + 1


def start_round(connection: Connection, new: Round) -> Round:
    """Adds a running round and gives it its number.

    Raises FencedError if what it was planned for has changed since: a client of its cohort was
    barred, its run has ended or a deletion goes before it (one that waits for an approval does
    not), or its job no longer recovers.
    """
    check_wanted(connection, new)
    number = next_number(connection)
    row = asdict(new) | {"number": number}
    row |= {"cohort": list(new.cohort), "missing": dict(new.missing), "metrics": {}}
    connection.execute(insert(rounds).values(**row))
    return get_round(connection, number)


def check_wanted(connection: Connection, new: Round) -> None:
    """Raises FencedError as `start_round` does."""
    if new.phase is RoundPhase.RECOVERY:
        query = select(jobs.c.phase).where(jobs.c.id == new.job_id)
        wanted = connection.execute(query).scalar() == JobPhase.RECOVERING
    else:
        run = active_run(connection)
        query = select(func.count()).select_from(jobs).where(jobs.c.phase.not_in(NOT_READY))
        wanted = run is not None and run.id == new.run_id and not connection.execute(query).scalar()
    if not wanted:
        raise FencedError(f"the {new.phase} round is no longer wanted")
    barred = _may_not_train(connection) & set(new.cohort)
    if barred:
        raise FencedError(f"{', '.join(sorted(barred))} may no longer train")


def end_round(connection: Connection, ended: Round) -> None:
    """Writes how a round ended.

    Raises FencedError unless it is still running: a deletion that was accepted in the meantime
    has aborted it, and nothing that belongs to this transaction may be committed. It raises that,
    too, for a result that holds an update of a client that is barred, or of an older generation.
    """
    if ended.result_version:
        _check_fences(connection, ended)
    changed = connection.execute(
        update(rounds)
        .where(rounds.c.number == ended.number, rounds.c.outcome == RoundOutcome.RUNNING)
        .values(
            outcome=ended.outcome,
            result_version=ended.result_version,
            missing=dict(ended.missing),
            metrics=dict(ended.metrics),
            ended_at=ended.ended_at,
        )
    )
    if not changed.rowcount:
        raise FencedError(f"round {ended.number} was aborted")


def _check_fences(connection: Connection, ended: Round) -> None:
    counted = set(ended.cohort) - set(ended.missing)
    barred = _may_not_train(connection) & counted
    if barred:
        raise FencedError(
            f"{', '.join(sorted(barred))} may no longer train, and did in round {ended.number}"
        )
    of_base = select(versions.c.generation).where(versions.c.number == ended.base_version)
    newest = connection.execute(select(func.max(versions.c.generation))).scalar()
    if connection.execute(of_base).scalar() != newest:
        raise FencedError(f"round {ended.number} was trained on an older generation")


def _may_not_train(connection: Connection) -> set[str]:
    """The clients that are barred, or have yet to bar something themselves."""
    barred = {bar.client for bar in client_rows.list_bars(connection)}
    return barred | forget_rows.owing(connection).keys()


def close_round(connection: Connection, number: int, outcome: RoundOutcome, now: float) -> None:
    """Ends a round that left no result, if nothing else has ended it."""
    running = (rounds.c.number == number, rounds.c.outcome == RoundOutcome.RUNNING)
    connection.execute(update(rounds).where(*running).values(outcome=outcome, ended_at=now))


def failures_in_a_row(connection: Connection, *, run_id: int = 0, job_id: str = "") -> int:
    """How many of the latest rounds of a run, or of a job, failed one after the other."""
    ended = (RoundOutcome.COMPLETED, RoundOutcome.DEGRADED, RoundOutcome.FAILED)
    whose = (rounds.c.run_id == run_id, rounds.c.job_id == job_id)
    query = select(rounds.c.outcome).where(*whose, rounds.c.outcome.in_(ended))
    outcomes = connection.execute(query.order_by(rounds.c.number.desc())).scalars().all()
    failed = (index for index, found in enumerate(outcomes) if found != RoundOutcome.FAILED)
    return next(failed, len(outcomes))


def running_rounds(connection: Connection) -> Sequence[Round]:
    """Every round that has not ended."""
    query = select(rounds).where(rounds.c.outcome == RoundOutcome.RUNNING)
    return [_round(row) for row in connection.execute(query.order_by(rounds.c.number))]


def abort_running_rounds(connection: Connection, now: float) -> tuple[int, ...]:
    """Aborts every running round and returns their numbers."""
    query = select(rounds.c.number).where(rounds.c.outcome == RoundOutcome.RUNNING)
    numbers = tuple(connection.execute(query).scalars())
    connection.execute(
        update(rounds)
        .where(rounds.c.number.in_(numbers))
        .values(outcome=RoundOutcome.ABORTED, ended_at=now)
    )
    return numbers


def get_round(connection: Connection, number: int) -> Round:
    """The round of a number. Raises LookupError if there is none."""
    row = connection.execute(select(rounds).where(rounds.c.number == number)).first()
    if row is None:
        raise LookupError(f"there is no round {number}")
    return _round(row)


def list_rounds(connection: Connection, before: int, size: int) -> Sequence[Round]:
    """Rounds with a number below `before` (0: all), newest first."""
    query = select(rounds).order_by(rounds.c.number.desc()).limit(size)
    if before:
        query = query.where(rounds.c.number < before)
    return [_round(row) for row in connection.execute(query)]


def recovery_rounds(connection: Connection, job_id: str, attempt: int) -> Sequence[Round]:
    """The rounds of an attempt that made a version, oldest first."""
    query = select(rounds).where(
        rounds.c.job_id == job_id, rounds.c.attempt == attempt, rounds.c.result_version > 0
    )
    return [_round(row) for row in connection.execute(query.order_by(rounds.c.number))]


def _run(row: Row[Any]) -> Run:
    return Run(
        id=row.id,
        rounds=row.rounds,
        rounds_done=row.rounds_done,
        state=RunState(row.state),
        started_at=row.started_at,
        policy=RoundPolicy(**row.policy),
        config=row.config,
        failure=row.failure,
        call_id=row.call_id,
        traceparent=row.traceparent,
    )


def _round(row: Row[Any]) -> Round:
    return Round(
        number=row.number,
        phase=RoundPhase(row.phase),
        outcome=RoundOutcome(row.outcome),
        base_version=row.base_version,
        cohort=tuple(row.cohort),
        started_at=row.started_at,
        run_id=row.run_id,
        job_id=row.job_id,
        attempt=row.attempt,
        result_version=row.result_version,
        missing=row.missing,
        metrics=row.metrics,
        ended_at=row.ended_at,
    )
