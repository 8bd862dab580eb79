"""The client's Prometheus metrics; the only module of the client that knows prometheus_client."""

from __future__ import annotations

from typing import Final, Self

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)

from client.activity import Activity
from fednot import __version__

PHASES: Final = ("training", "recovery", "verification", "unlearning", "evaluation", "profile")
OUTCOMES: Final = ("completed", "cancelled", "failed", "refused")
_DURATIONS: Final = (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600)


class ClientMetrics:
    """What the client counts, in the registry that it is given.

    `activity` is the part that the server is told.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.activity = Activity()
        self._connected = Gauge(
            "fednot_client_connected", "1 while a session is open", registry=registry
        )
        self._reconnects = Counter(
            "fednot_client_reconnects_total",
            "Outages that ended, and sessions that had to be opened again",
            registry=registry,
        )
        self._rounds = Counter(
            "fednot_client_rounds_total",
            "Pieces of work by phase and outcome",
            ["phase", "outcome"],
            registry=registry,
        )
        self._duration = Histogram(
            "fednot_client_train_duration_seconds",
            "How long local training took",
            buckets=_DURATIONS,
            registry=registry,
        )
        self._examples = Counter(
            "fednot_client_examples_total",
            "Training examples behind the updates that the server took",
            registry=registry,
        )
        self._transfer = Counter(
            "fednot_client_transfer_bytes_total",
            "Model bytes moved",
            ["direction"],
            registry=registry,
        )
        self._device = Gauge(
            "fednot_client_device_info", "The device in use", ["device"], registry=registry
        )
        self._degraded = Gauge(
            "fednot_client_degraded",
            "1 after falling back from CUDA to the CPU",
            registry=registry,
        )
        self._barred = Gauge(
            "fednot_client_barred", "1 while this client may not train", registry=registry
        )
        self._certificate_ends = Gauge(
            "fednot_client_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends; 0 in plaintext",
            registry=registry,
        )
        self._privacy = Gauge(
            "fednot_client_privacy_epsilon",
            "The epsilon that training has spent; 0 without differential privacy",
            registry=registry,
        )
        build = Gauge("fednot_client_build_info", "The version", ["version"], registry=registry)
        build.labels(__version__).set(1)
        ProcessCollector(registry=registry)
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        for phase in PHASES:
            for outcome in OUTCOMES:
                self._rounds.labels(phase, outcome)
        for direction in ("download", "upload"):
            self._transfer.labels(direction)

    @classmethod
    def fresh(cls) -> Self:
        """Metrics in a registry of their own."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        return cls(CollectorRegistry())

    def connected(self, value: bool) -> None:
        """Whether a session is open."""
        self._connected.set(value)

    def reconnected(self) -> None:
        """An outage ended, or a session had to be opened again."""
        self._reconnects.inc()
        self.activity.reconnected()

    def work_ended(self, phase: str, outcome: str) -> None:
        """A piece of work ended; the labels are of PHASES and OUTCOMES."""
        self._rounds.labels(phase, outcome).inc()

    def trained(self, seconds: float) -> None:
        """Local training took so long."""
        self._duration.observe(seconds)
        self.activity.trained(seconds)

    def contributed(self, examples: int) -> None:
        """The server took an update of so many examples."""
        self._examples.inc(examples)
        self.activity.contributed(examples)

    def moved(self, direction: str, num_bytes: int) -> None:
        """So many model bytes were moved; the direction is "download" or "upload"."""
        self._transfer.labels(direction).inc(num_bytes)

    def device(self, name: str, *, degraded: bool) -> None:
        """The device in use from now on."""
        self._device.clear()
        self._device.labels(name).set(1)
        self._degraded.set(degraded)

    def barred(self, value: bool) -> None:
        """Whether the client is barred from training."""
        self._barred.set(value)

    def certificate_ends(self, at: float) -> None:
        """When the certificate in use ends, in seconds since the epoch."""
        self._certificate_ends.set(at)

    def privacy(self, epsilon: float) -> None:
        """What training under differential privacy has spent."""
        self._privacy.set(epsilon)

    def render(self) -> tuple[bytes, str]:
        """All metrics in the text format, and its content type."""
        return exposition.generate_latest(self._registry), exposition.CONTENT_TYPE_LATEST
