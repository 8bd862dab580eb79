"""What a view shows of a run or a deletion, and its JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fednot import sentences
from fednot.cli.documents import Document, document, documents
from fednot.cli.run_following import EndedRound, RunUpdate
from fednot.v1 import deletion_pb2

ACCURACY: Final = "accuracy"
NEWS: Final = "ended_rounds"


@dataclass(frozen=True)
class Fact:
    """Something that has happened and stays so; a later fact of the same key replaces it.

    An `alarm` is shown in red where there are colours.
    """

    key: tuple[str, int, int]
    text: str
    accuracy: float | None = None
    alarm: bool = False


@dataclass(frozen=True)
class Progress:
    """Where something stands: a headline, what is counted, the round in flight, facts."""

    headline: str
    document: Document
    facts: tuple[Fact, ...]
    round: deletion_pb2.RoundProgress | None = None
    waiting_for: str = ""
    done: int = 0
    total: int = 0
    target: float | None = None


def of_run(update: RunUpdate) -> Progress:
    """The progress of a training run."""
    run = update.run
    headline = f"run {run.id}: {sentences.run_state(run.state)}"
    if run.failure:
        headline += f": {run.failure}"
    return Progress(
        headline=headline,
        document=_run_document(update),
        facts=tuple(_run_fact(ended, run.rounds) for ended in update.ended),
        round=update.round,
        waiting_for=update.waiting_for,
        done=run.rounds_done,
        total=run.rounds,
    )


def of_deletion(response: deletion_pb2.WatchDeletionResponse) -> Progress:
    """The progress of a deletion."""
    deletion, job = response.deletion, response.deletion.job
    return Progress(
        headline=_deletion_headline(deletion),
        document=document(response),
        facts=(
            *_confirmation_facts(deletion),
            *(fact for attempt in job.attempts for fact in _attempt_facts(attempt)),
            *_destruction_facts(job),
        ),
        round=response.round if response.HasField("round") else None,
        waiting_for=job.waiting_for,
        done=len(job.attempts[-1].rounds) if job.attempts else 0,
        target=job.target_accuracy if job.HasField("target_accuracy") else None,
    )


def _run_document(update: RunUpdate) -> Document:
    return {
        "run": document(update.run),
        "round": document(update.round) if update.round else None,
        "waiting_for": update.waiting_for,
        NEWS: documents([ended.round for ended in update.ended]),
    }


def _run_fact(ended: EndedRound, total: int) -> Fact:
    found = ended.round
    text = f"round {found.number}: {sentences.round_outcome(found.outcome)}"
    if found.result_version:
        text = f"[{ended.index} of {total}] {text}"
    came = len(found.cohort) - len(found.missing)
    parts = [f"{came} of {len(found.cohort)} updates", sentences.metrics(found.metrics)]
    parts += [f"{missing.client} missing ({missing.reason})" for missing in found.missing]
    text = ", ".join([text, *filter(None, parts)])
    return Fact(("round", 0, found.number), text, found.metrics.get(ACCURACY))


def _deletion_headline(deletion: deletion_pb2.Deletion) -> str:
    job = deletion.job
    headline = f"deletion {deletion.request_id} of {sentences.scopes(deletion)}: "
    headline += sentences.job_phase(job.phase)
    if job.phase == deletion_pb2.JOB_PHASE_COMPLETED:
        if not job.released_version:
            return f"{headline}; nothing is released while other deletions are open{_alarm(job)}"
        return f"{headline}, version {job.released_version} is released" + _alarm(job)
    if job.failure:
        return f"{headline}: {job.failure}"
    if job.phase == deletion_pb2.JOB_PHASE_RECOVERING and job.attempts:
        return f"{headline}, attempt {job.attempts[-1].number}"
    return headline


def _alarm(job: deletion_pb2.Job) -> str:
    failed = sentences.has_failed(sentences.chosen_verification(job))
    return "; VERIFICATION FAILED" if failed else ""


def _confirmation_facts(deletion: deletion_pb2.Deletion) -> Iterator[Fact]:
    if text := sentences.confirmations(deletion):
        yield Fact(("confirmations", 0, 0), text)


def _verdict_facts(attempt: deletion_pb2.Attempt) -> Iterator[Fact]:
    """Both verdicts on an attempt; FAIL is said first."""
    if not attempt.HasField("verification"):
        return
    found = attempt.verification
    said = (
        ("behaviour", found.behaviour, found.behaviour_reason),
        ("depth", found.depth, found.depth_reason),
    )
    for index, (name, verdict, reason) in enumerate(said):
        failed = verdict == deletion_pb2.VERDICT_FAIL
        text = f"attempt {attempt.number}: {name} {sentences.verdict(verdict)}: {reason}"
        shown = f"VERIFICATION FAILED: {text}" if failed else text
        yield Fact(("verdict", attempt.number, index), shown, alarm=failed)


def _destruction_facts(job: deletion_pb2.Job) -> Iterator[Fact]:
    if job.phase != deletion_pb2.JOB_PHASE_COMPLETED:
        return
    if job.destroyed:
        yield Fact(("destroyed", 0, 0), f"destroyed: {len(job.destroyed)} older versions")
    elif job.retain:
        text = "older versions are kept for a legal hold (`fednot lift-hold`)"
        yield Fact(("destroyed", 0, 0), text)
    asked = job.client_destructions
    if not asked:
        return
    owing = [each.client for each in asked if not each.HasField("acknowledged_at")]
    kept = sum(len(each.destroyed) for each in asked)
    text = f"{len(asked) - len(owing)} of {len(asked)} clients destroyed what they kept ({kept})"
    if owing:
        text += f"; when they join next: {sentences.listed(owing)}"
    yield Fact(("destroyed", 0, 1), text)


def _attempt_facts(attempt: deletion_pb2.Attempt) -> Iterator[Fact]:
    number = attempt.number
    verb = "negates" if attempt.method == "not" else "changes"
    changed = f" {verb} {', '.join(attempt.tensors)}" if attempt.tensors else " begins"
    yield Fact(("attempt", number, 0), f"attempt {number}, method {attempt.method}:{changed}")
    for index, warning in enumerate(attempt.warnings):
        yield Fact(("warning", number, index), f"attempt {number}: warning: {warning}")
    if attempt.steps:
        text = f"attempt {number}: {sentences.steps(len(attempt.steps))}"
        yield Fact(("steps", number, 0), text)
    for index, each in enumerate(attempt.rounds, start=1):
        scores = sentences.metrics(each.metrics) or "not evaluated"
        text = f"attempt {number}, recovery round {index}: {scores}"
        yield Fact(("recovery", number, index), text, each.metrics.get(ACCURACY))
    if attempt.outcome == deletion_pb2.ATTEMPT_OUTCOME_SUCCEEDED:
        reason = sentences.stop_reason(attempt.stop_reason)
        yield Fact(("end", number, 0), f"attempt {number}: succeeded, stopped by {reason}")
    if attempt.outcome == deletion_pb2.ATTEMPT_OUTCOME_ABANDONED:
        why = attempt.explanation or sentences.stop_reason(attempt.stop_reason)
        yield Fact(("end", number, 0), f"attempt {number}: abandoned: {why}")
    yield from _verdict_facts(attempt)
