"""Rounds, and the updates that they are made of."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from fednot.errors import Reason
from server.records import Anomaly, RoundOutcome, RoundPhase

UPDATE_OUTCOMES: Final = ("accepted", "refused", "missing", "dropped")
"""Dropped: accepted, and then lost with the round that a deletion aborted."""
MADE_A_VERSION: Final = (RoundOutcome.COMPLETED, RoundOutcome.DEGRADED)


class RoundMetrics:
    """Rounds by phase and outcome, their parts, and updates by outcome."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended = Counter(
            "fednot_rounds_total", "Rounds that ended", ["phase", "outcome"], registry=registry
        )
        self._duration = Histogram(
            "fednot_round_duration_seconds",
            "How long rounds took, evaluation included",
            ["phase"],
            buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600),
            registry=registry,
        )
        self._recovery = Counter(
            "fednot_recovery_rounds_total", "Recovery rounds that made a version", registry=registry
        )
        self._aggregation = Histogram(
            "fednot_aggregation_duration_seconds",
            "How long the arithmetic of one round's aggregation took, waiting for clients excluded",
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 1, 5, 15, 60, 300),
            registry=registry,
        )
        self._updates = Counter(
            "fednot_updates_total", "Updates by outcome", ["outcome"], registry=registry
        )
        self._refused = Counter(
            "fednot_refused_updates_total",
            "Refused updates by reason",
            ["reason"],
            registry=registry,
        )
        self._anomalies = Counter(
            "fednot_update_anomalies_total",
            "Odd things about updates by kind",
            ["kind"],
            registry=registry,
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        for phase in RoundPhase:
            self._duration.labels(phase)
            for outcome in RoundOutcome:
                if outcome is not RoundOutcome.RUNNING:
                    self._ended.labels(phase, outcome)
        for update_outcome in UPDATE_OUTCOMES:
            self._updates.labels(update_outcome)
        for reason in Reason:
            self._refused.labels(reason)
        for anomaly in Anomaly:
            self._anomalies.labels(anomaly)

    def ended(self, phase: RoundPhase, outcome: RoundOutcome, seconds: float) -> None:
        """Counts a round that ended."""
        self._ended.labels(phase, outcome).inc()
        self._duration.labels(phase).observe(seconds)
        if phase is RoundPhase.RECOVERY and outcome in MADE_A_VERSION:
            self._recovery.inc()

    def aggregated(self, seconds: float) -> None:
        """Counts the arithmetic of one round's aggregation."""
        self._aggregation.observe(seconds)

    def updates(self, outcome: str, count: int = 1) -> None:
        """Counts updates; the outcome is one of UPDATE_OUTCOMES."""
        self._updates.labels(outcome).inc(count)

    def update_refused(self, reason: Reason) -> None:
        """Counts an update that was turned away."""
        self._updates.labels("refused").inc()
        self._refused.labels(reason).inc()

    def odd(self, kind: Anomaly) -> None:
        """Counts something odd about an update."""
        self._anomalies.labels(kind).inc()
