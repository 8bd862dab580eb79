"""Puts together what a receipt states, from the rows of one transaction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime

from sqlalchemy import Connection, select

import fednot
from fednot.loss_profile import LossProfile
from fednot.receipt.payload import (
    FORMAT,
    STATEMENT,
    Cache,
    ChainHead,
    ClientCaches,
    CurvePoint,
    ForgottenScope,
    Judgement,
    KeptUpdates,
    LossHistogram,
    Measured,
    Model,
    PhaseEntry,
    Receipt,
    Try,
    Verified,
    VersionHash,
)
from server.records import (
    Attempt,
    DestroyedVersion,
    Job,
    Judged,
    Verification,
    Version,
)
from server.state import audit_rows, kept_update_rows, round_rows, version_rows
from server.state.pseudonym_rows import pseudonym_of
from server.state.schema import federation, requests

MERGED_BINS = 10
"""How many bins of a loss profile make one of a receipt."""
NOT_VERIFIED = Judgement(verdict="not-possible", reason="the job was not verified")


def receipt_of(connection: Connection, job: Job, key_id: str, now: float) -> Receipt:
    """What is to be signed of a job at its end, in the transaction that ends it.

    Raises LookupError if the job has no attempt, or a version of it has no row.
    """
    attempts = tuple(_try(connection, attempt) for attempt in job.attempts)
    number = job.chosen_attempt or max((each.number for each in job.attempts), default=0)
    chosen = next((each for each in attempts if each.number == number), None)
    if chosen is None:
        raise LookupError(f"{job.id} has no attempt {number}")
    current, released = version_rows.current_and_released(connection)
    if current is None:
        raise LookupError("there is no current version")
    row = connection.execute(select(federation)).one()
    audit = audit_rows.head(connection)
    verification = chosen.verification
    return Receipt(
        format=FORMAT,
        statement=STATEMENT,
        federation=row.state_id,
        job_id=job.id,
        request_ids=job.requests,
        scopes=tuple(_scopes(connection, job)),
        method_asked=job.method,
        layers_asked=job.layers,
        unsafe_layers_allowed=job.allow_unsafe_layers,
        method_done=chosen.method,
        tensors=chosen.tensors,
        assurance=job.assurance.value,
        attempts=attempts,
        chosen_attempt=number,
        initial=_model(version_rows.initial_version(connection)),
        base=_found(connection, job.base_version),
        result=_model(current),
        released=released is not None and released.number == current.number,
        target_accuracy=job.target_accuracy,
        recovery_rounds=len(chosen.rounds),
        participants=chosen.participants,
        behaviour=verification.behaviour if verification else NOT_VERIFIED,
        depth=verification.depth if verification else NOT_VERIFIED,
        destroyed=_hashes(job.destroyed),
        held=_hashes(version_rows.held_by(connection, job.id)),
        client_caches=tuple(_caches(connection, job)),
        clients_unacknowledged=sum(each.acknowledged_at is None for each in job.caches),
        aborted_rounds=_aborted(connection, job.id),
        history=tuple(PhaseEntry(phase=phase.value, at=_at(at)) for phase, at in job.history),
        ledger=ChainHead(entries=row.ledger_sequence, sha256=row.ledger_hash),
        audit=ChainHead(entries=audit.entries, sha256=audit.hash),
        software=f"fednot {fednot.__version__}",
        issued_at=_at(now),
        key_id=key_id,
        kept_updates=_kept_updates(connection, job.id),
    )


def _scopes(connection: Connection, job: Job) -> Iterable[ForgottenScope]:
    for scope in job.scopes:
        told = [
            order
            for order in job.orders
            if order.scope.tombstone == scope.tombstone and scope.tombstone and not order.lift
        ]
        confirmed = [order for order in told if order.confirmed_at is not None]
        count, sha256 = scope.count, scope.sha256
        if confirmed and count is None:
            count = sum(order.count for order in confirmed)
        if len(confirmed) == 1 and not sha256:
            sha256 = confirmed[0].sha256
        yield ForgottenScope(
            kind=scope.kind.value,
            client=pseudonym_of(connection, f"client/{scope.client}") if scope.client else None,
            label=scope.label,
            count=count,
            sha256=sha256 or None,
            clients_told=len(told),
            clients_confirmed=len(confirmed),
        )


def _try(connection: Connection, attempt: Attempt) -> Try:
    rounds = round_rows.recovery_rounds(connection, attempt.job_id, attempt.number)
    counted = {name for each in rounds for name in set(each.cohort) - set(each.missing)}
    return Try(
        number=attempt.number,
        method=attempt.method,
        tensors=attempt.tensors,
        warnings=attempt.warnings,
        outcome=attempt.outcome.value,
        stop_reason=attempt.stop_reason.value if attempt.stop_reason else None,
        explanation=attempt.explanation,
        rung=attempt.rung,
        start=_found(connection, attempt.start_version),
        end=_found(connection, attempt.last_version),
        participants=len(counted),
        rounds=tuple(
            CurvePoint(round=each.round, version=each.version, figures=_finite(each.metrics))
            for each in attempt.rounds
        ),
        verification=_verified(attempt.verification) if attempt.verification else None,
        steps=len(attempt.steps),
    )


def _verified(found: Verification) -> Verified:
    return Verified(
        behaviour=_judgement(found.behaviour),
        depth=_judgement(found.depth),
        thresholds=_finite(asdict(found.thresholds)),
        findings=tuple(
            Measured(model=each.model, rounds=each.rounds, figures=_finite(each.figures))
            for each in found.findings
        ),
        forgotten_losses=histogram_of(found.forgotten),
        unseen_losses=histogram_of(found.unseen),
        probe_sha256=found.probe_sha256 or None,
        found_at=_at(found.found_at),
    )


def histogram_of(profile: LossProfile | None) -> LossHistogram | None:
    """A coarser histogram of a loss profile: the bins below and above stay, others are merged."""
    if profile is None:
        return None
    below, *inner, above = profile.counts
    merged = [sum(inner[at : at + MERGED_BINS]) for at in range(0, len(inner), MERGED_BINS)]
    return LossHistogram(counts=(below, *merged, above), correct=profile.num_correct)


def _caches(connection: Connection, job: Job) -> Iterable[ClientCaches]:
    for each in job.caches:
        if each.acknowledged_at is not None:
            yield ClientCaches(
                client=pseudonym_of(connection, f"client/{each.client}"),
                acknowledged_at=_at(each.acknowledged_at),
                destroyed=tuple(
                    Cache(kind=cache.kind, sha256=cache.sha256, num_bytes=cache.num_bytes)
                    for cache in each.destroyed
                ),
            )


def _kept_updates(connection: Connection, job_id: str) -> KeptUpdates | None:
    found = kept_update_rows.stored(connection, job_id)
    if not found.count:
        return None
    return KeptUpdates(count=found.count, num_bytes=found.num_bytes, sha256=found.sha256)


def _aborted(connection: Connection, job_id: str) -> tuple[int, ...]:
    query = select(requests.c.aborted_rounds).where(requests.c.job_id == job_id)
    found = {number for each in connection.execute(query).scalars() for number in each}
    return tuple(sorted(found))


def _judgement(found: Judged) -> Judgement:
    return Judgement(verdict=found.verdict.value, reason=found.reason)


def _found(connection: Connection, number: int) -> Model:
    found = version_rows.get_version(connection, number)
    if found is None:
        raise LookupError(f"there is no version {number}")
    return _model(found)


def _model(version: Version) -> Model:
    return Model(number=version.number, sha256=version.sha256, generation=version.generation)


def _hashes(found: Iterable[DestroyedVersion]) -> tuple[VersionHash, ...]:
    return tuple(VersionHash(number=each.number, sha256=each.sha256) for each in found)


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
