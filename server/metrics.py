"""The server's metrics. No label names a client, a job or a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from server.client_states import ClientState
from server.records import (
    Anomaly,
    JobPhase,
    RoundOutcome,
    RoundPhase,
    StoredUpdates,
    Verdict,
    Version,
    WaitKind,
)

UPDATE_OUTCOMES: Final = ("accepted", "refused", "missing", "dropped")
"""Dropped: accepted, and then lost with the round that a deletion aborted."""
DIRECTIONS: Final = ("sent", "received")
VERDICT_KINDS: Final = ("behaviour", "depth")
CERTIFICATES: Final = ("server", "authority", "clients")


def new_registry() -> CollectorRegistry:
    """A registry of its own, so that two servers in one process do not mix.

    Without the `_created` series, which double every counter and which Prometheus has no use for.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return CollectorRegistry()


class Metrics:
    """Everything the server tells Prometheus; the registry is given."""

    def __init__(self, registry: CollectorRegistry, version: str) -> None:
        self._registry = registry
        info = Gauge("fednot_build_info", "The running version", ["version"], registry=registry)
        info.labels(version).set(1)
        self.rounds = Counter(
            "fednot_rounds_total", "Rounds that ended", ["phase", "outcome"], registry=registry
        )
        self.round_duration = Histogram(
            "fednot_round_duration_seconds",
            "How long rounds took, evaluation included",
            ["phase"],
            buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600),
            registry=registry,
        )
        self.clients = Gauge("fednot_clients", "Clients by state", ["state"], registry=registry)
        self.updates = Counter(
            "fednot_updates_total", "Updates by outcome", ["outcome"], registry=registry
        )
        self.anomalies = Counter(
            "fednot_update_anomalies_total",
            "Odd things about updates by kind",
            ["kind"],
            registry=registry,
        )
        self.refusals = Counter(
            "fednot_refusals_total", "Refused calls by reason", ["reason"], registry=registry
        )
        self.accuracy = Gauge(
            "fednot_evaluation_accuracy_ratio", "Accuracy of the newest version", registry=registry
        )
        self.loss = Gauge("fednot_evaluation_loss", "Loss of the newest version", registry=registry)
        self.version = Gauge("fednot_model_version", "The newest version", registry=registry)
        self.released = Gauge(
            "fednot_model_released_version", "The released version, 0 if none", registry=registry
        )
        self.generation = Gauge(
            "fednot_model_generation", "How often unlearning changed the model", registry=registry
        )
        self._add_deletions(registry)
        self.free = Gauge(
            "fednot_state_free_bytes",
            "Free bytes of the fullest disk that the server writes to",
            registry=registry,
        )
        self._add_kept_updates(registry)
        self._add_transfers(registry)
        self.privacy = Gauge(
            "fednot_privacy_epsilon_max",
            "The most that a connected client's training under differential privacy has spent",
            registry=registry,
        )
        self._add_certificates(registry)
        self._start_at_zero()

    def _add_deletions(self, registry: CollectorRegistry) -> None:
        self.jobs = Gauge(
            "fednot_unlearning_jobs", "Unlearning jobs by phase", ["phase"], registry=registry
        )
        self.recovery_rounds = Counter(
            "fednot_recovery_rounds_total", "Recovery rounds that made a version", registry=registry
        )
        self.oldest_request = Gauge(
            "fednot_oldest_open_deletion_timestamp_seconds",
            "When the oldest open deletion was accepted, 0 if none is open",
            registry=registry,
        )
        self.overdue = Gauge(
            "fednot_overdue_deletions",
            "Open deletions whose deadline has passed",
            registry=registry,
        )
        self.verdicts = Counter(
            "fednot_verification_verdicts_total",
            "Verdicts on attempts of deletions",
            ["verdict", "kind"],
            registry=registry,
        )
        self.failed_verdicts = Gauge(
            "fednot_deletions_that_failed_verification",
            "Completed deletions whose kept model failed a verdict",
            ["kind"],
            registry=registry,
        )
        self.waiting_since = Gauge(
            "fednot_waiting_since_timestamp_seconds",
            "Since when the server waits for such a thing, 0 if it does not",
            ["for"],
            registry=registry,
        )

    def _add_kept_updates(self, registry: CollectorRegistry) -> None:
        self.kept_updates = Gauge(
            "fednot_kept_updates",
            "Updates of clients that are kept for unlearning methods that need them",
            registry=registry,
        )
        self.kept_update_bytes = Gauge(
            "fednot_kept_update_bytes", "The size of the kept updates", registry=registry
        )

    def _add_transfers(self, registry: CollectorRegistry) -> None:
        self.transfer = Counter(
            "fednot_transfer_bytes_total",
            "Model bytes moved between server and clients",
            ["direction"],
            registry=registry,
        )
        self.data_transfer = Counter(
            "fednot_data_channel_bytes_total",
            "Those of fednot_transfer_bytes_total that went over the data channel",
            ["direction"],
            registry=registry,
        )
        self.data_connections = Gauge(
            "fednot_data_connections", "Open connections of the data channel", registry=registry
        )
        self.uploads = Gauge(
            "fednot_uploads", "Uploads that are under way by state", ["state"], registry=registry
        )
        self.spilled_uploads = Counter(
            "fednot_spilled_uploads_total",
            "Slow uploads that moved from memory to a spill file",
            registry=registry,
        )

    def _add_certificates(self, registry: CollectorRegistry) -> None:
        self.certificates = Gauge(
            "fednot_certificate_expiry_timestamp_seconds",
            "When certificates end: the server's, its authority's, the first client's; 0 if none",
            ["certificate"],
            registry=registry,
        )
        self.stale_identity = Gauge(
            "fednot_identity_files_stale",
            "1 while replaced identity files cannot be used and the ones before stay in force",
            registry=registry,
        )

    def _start_at_zero(self) -> None:
        for phase in RoundPhase:
            self.round_duration.labels(phase)
            for outcome in RoundOutcome:
                if outcome is not RoundOutcome.RUNNING:
                    self.rounds.labels(phase, outcome)
        for update_outcome in UPDATE_OUTCOMES:
            self.updates.labels(update_outcome)
        for anomaly in Anomaly:
            self.anomalies.labels(anomaly)
        for direction in DIRECTIONS:
            self.transfer.labels(direction)
            self.data_transfer.labels(direction)
        for kind in VERDICT_KINDS:
            for verdict in Verdict:
                self.verdicts.labels(verdict, kind)
        self.show_failed_verdicts({})
        self.show_uploads(receiving=0, waiting=0, cut=0)
        self.show_clients({})
        self.show_jobs({}, 0.0, overdue=0)
        self.show_wait(None, 0.0)
        self.show_certificates({}, stale=False)

    def round_ended(self, phase: RoundPhase, outcome: RoundOutcome, seconds: float) -> None:
        """Counts a round that ended."""
        self.rounds.labels(phase, outcome).inc()
        self.round_duration.labels(phase).observe(seconds)
        made_version = outcome in (RoundOutcome.COMPLETED, RoundOutcome.DEGRADED)
        if phase is RoundPhase.RECOVERY and made_version:
            self.recovery_rounds.inc()

    def moved_beside_grpc(self, direction: str, num_bytes: int) -> None:
        """Counts model bytes that the data channel moved; the direction is one of DIRECTIONS."""
        self.transfer.labels(direction).inc(num_bytes)
        self.data_transfer.labels(direction).inc(num_bytes)

    def show_uploads(self, **counts: int) -> None:
        """Shows how many uploads are receiving, waiting for a slot, and cut but kept."""
        for state, count in counts.items():
            self.uploads.labels(state).set(count)

    def show_version(self, version: Version, released: int) -> None:
        """Shows the newest version, and which one is released."""
        self.version.set(version.number)
        self.generation.set(version.generation)
        self.released.set(released)
        if "accuracy" in version.metrics:
            self.accuracy.set(version.metrics["accuracy"])
        if "loss" in version.metrics:
            self.loss.set(version.metrics["loss"])

    def show_kept_updates(self, kept: StoredUpdates) -> None:
        """Shows how many updates are kept, and how large they are."""
        self.kept_updates.set(kept.count)
        self.kept_update_bytes.set(kept.num_bytes)

    def show_failed_verdicts(self, counts: Mapping[str, int]) -> None:
        """Shows how many completed deletions kept a model that failed, by kind of verdict."""
        for kind in VERDICT_KINDS:
            self.failed_verdicts.labels(kind).set(counts.get(kind, 0))

    def show_clients(self, counts: Mapping[ClientState, int]) -> None:
        """Shows how many clients are in each state."""
        for state in ClientState:
            self.clients.labels(state).set(counts.get(state, 0))

    def show_wait(self, kind: WaitKind | None, since: float) -> None:
        """Shows what the server waits for, and since when in seconds since the epoch."""
        for each in WaitKind:
            self.waiting_since.labels(each).set(since if each is kind else 0.0)

    def show_jobs(self, counts: Mapping[JobPhase, int], oldest: float, *, overdue: int) -> None:
        """Shows how many jobs are in each phase, how many deletions are late, and when the oldest
        open one was accepted.
        """
        self.overdue.set(overdue)
        for phase in JobPhase:
            self.jobs.labels(phase).set(counts.get(phase, 0))
        self.oldest_request.set(oldest)

    def show_certificates(self, expiries: Mapping[str, float], *, stale: bool) -> None:
        """Shows when certificates end, and whether the server's files are not the ones in force."""
        for certificate in CERTIFICATES:
            self.certificates.labels(certificate).set(expiries.get(certificate, 0.0))
        self.stale_identity.set(stale)

    def render(self) -> tuple[bytes, str]:
        """The exposition and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
