"""Deletions: their jobs, how long each phase took, what became of them, and what they wait for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.phases import ENDED
from server.records import JobPhase, StoredUpdates, Verdict, WaitKind

VERDICT_KINDS: Final = ("behaviour", "depth")
OUTCOMES: Final = (JobPhase.COMPLETED, JobPhase.FAILED, JobPhase.CANCELLED)
"""The ends that are counted: a merged job ends with the one that serves it."""
PASSED: Final = tuple(phase for phase in JobPhase if phase not in ENDED)
"""The phases that a job passes, each of which takes time."""


class DeletionMetrics:
    """Jobs by phase, their durations and ends, verdicts, deadlines, and what is kept for them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._add_jobs(registry)
        self._add_verdicts(registry)
        self._oldest = Gauge(
            "fednot_oldest_open_deletion_timestamp_seconds",
            "When the oldest open deletion was accepted, 0 if none is open",
            registry=registry,
        )
        self._overdue = Gauge(
            "fednot_overdue_deletions",
            "Open deletions whose deadline has passed",
            registry=registry,
        )
        self._waiting_since = Gauge(
            "fednot_waiting_since_timestamp_seconds",
            "Since when the server waits for such a thing, 0 if it does not",
            ["for"],
            registry=registry,
        )
        self._kept = Gauge(
            "fednot_kept_updates",
            "Updates of clients that are kept for unlearning methods that need them",
            registry=registry,
        )
        self._kept_bytes = Gauge(
            "fednot_kept_update_bytes", "The size of the kept updates", registry=registry
        )
        self._start_at_zero()

    def _add_jobs(self, registry: CollectorRegistry) -> None:
        self._jobs = Gauge(
            "fednot_unlearning_jobs", "Unlearning jobs by phase", ["phase"], registry=registry
        )
        self._phase_duration = Histogram(
            "fednot_unlearning_phase_duration_seconds",
            "How long unlearning jobs were in a phase that they left",
            ["phase"],
            buckets=(0.1, 1, 10, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600),
            registry=registry,
        )
        self._ended = Counter(
            "fednot_unlearning_jobs_ended_total",
            "Unlearning jobs that ended by outcome",
            ["outcome"],
            registry=registry,
        )

    def _add_verdicts(self, registry: CollectorRegistry) -> None:
        self._verdicts = Counter(
            "fednot_verification_verdicts_total",
            "Verdicts on attempts of deletions",
            ["verdict", "kind"],
            registry=registry,
        )
        self._failed_verdicts = Gauge(
            "fednot_deletions_that_failed_verification",
            "Completed deletions whose kept model failed a verdict",
            ["kind"],
            registry=registry,
        )

    def _start_at_zero(self) -> None:
        for outcome in OUTCOMES:
            self._ended.labels(outcome)
        for phase in PASSED:
            self._phase_duration.labels(phase)
        for kind in VERDICT_KINDS:
            for verdict in Verdict:
                self._verdicts.labels(verdict, kind)
        self.show_failed_verdicts({})
        self.show_jobs({}, 0.0, overdue=0)
        self.show_wait(None, 0.0)

    def moved(self, left: JobPhase | None, entered: JobPhase, seconds: float) -> None:
        """Counts a job's move: out of a phase after so many seconds, None if it began, to another.

        An end that is entered counts as the job's outcome.
        """
        if left is not None:
            self._phase_duration.labels(left).observe(seconds)
        if entered in OUTCOMES:
            self._ended.labels(entered).inc()

    def judged(self, kind: str, verdict: Verdict) -> None:
        """Counts a verdict on an attempt; the kind is one of VERDICT_KINDS."""
        self._verdicts.labels(verdict, kind).inc()

    def show_failed_verdicts(self, counts: Mapping[str, int]) -> None:
        """Shows how many completed deletions kept a model that failed, by kind of verdict."""
        for kind in VERDICT_KINDS:
            self._failed_verdicts.labels(kind).set(counts.get(kind, 0))

    def show_jobs(self, counts: Mapping[JobPhase, int], oldest: float, *, overdue: int) -> None:
        """Shows how many jobs are in each phase, how many deletions are late, and when the oldest
        open one was accepted.
        """
        self._overdue.set(overdue)
        for phase in JobPhase:
            self._jobs.labels(phase).set(counts.get(phase, 0))
        self._oldest.set(oldest)

    def show_wait(self, kind: WaitKind | None, since: float) -> None:
        """Shows what the server waits for, and since when in seconds since the epoch."""
        for each in WaitKind:
            self._waiting_since.labels(each).set(since if each is kind else 0.0)

    def show_kept_updates(self, kept: StoredUpdates) -> None:
        """Shows how many updates are kept, and how large they are."""
        self._kept.set(kept.count)
        self._kept_bytes.set(kept.num_bytes)
