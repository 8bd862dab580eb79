"""The clients as one fleet: what they are, and the sum of what their heartbeats tell.

Prometheus cannot reach a client behind NAT, so the server tells of all of them together.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.client_states import ClientState

DEVICES: Final = ("cpu", "cuda", "other")
VERSIONS: Final = 8
"""So many versions of clients have a series of their own; the rest are counted together."""
OTHER: Final = "other"


class FleetMetrics:
    """Clients by state, device and version, and what they did together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._add_clients(registry)
        self._add_work(registry)
        self._shown: frozenset[str] = frozenset()
        self.show_states({})
        self.show_devices({})
        self.show_versions({})

    def _add_clients(self, registry: CollectorRegistry) -> None:
        self._states = Gauge("fednot_clients", "Clients by state", ["state"], registry=registry)
        self._required = Gauge(
            "fednot_clients_required", "Clients that a round waits for at least", registry=registry
        )
        self._devices = Gauge(
            "fednot_fleet_clients", "Connected clients by device", ["device"], registry=registry
        )
        self._versions = Gauge(
            "fednot_fleet_clients_by_version",
            "Connected clients by version of fednot",
            ["version"],
            registry=registry,
        )
        self._degraded = Gauge(
            "fednot_fleet_degraded_clients",
            "Connected clients that fell back from CUDA to the CPU",
            registry=registry,
        )
        self._barred = Gauge(
            "fednot_fleet_barred_clients",
            "Connected clients that may not train",
            registry=registry,
        )
        self._oldest = Gauge(
            "fednot_fleet_oldest_heartbeat_timestamp_seconds",
            "When the connected client that is silent longest was last heard of, 0 if none is",
            registry=registry,
        )
        self._privacy = Gauge(
            "fednot_privacy_epsilon_max",
            "The most that a connected client's training under differential privacy has spent",
            registry=registry,
        )

    def _add_work(self, registry: CollectorRegistry) -> None:
        self._reconnects = Counter(
            "fednot_fleet_reconnects_total",
            "Outages of clients that ended, and sessions that they had to open again",
            registry=registry,
        )
        self._examples = Counter(
            "fednot_fleet_examples_total",
            "Training examples behind the updates that the server took of its clients",
            registry=registry,
        )
        self._trained = Histogram(
            "fednot_fleet_train_duration_seconds",
            "How long local training took, over all clients",
            buckets=(0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600),
            registry=registry,
        )

    def show_required(self, count: int) -> None:
        """Shows how many clients a round waits for at least."""
        self._required.set(count)

    def show_privacy(self, epsilon: float) -> None:
        """Shows the most that the training of a connected client has spent."""
        self._privacy.set(epsilon)

    def did(self, reconnects: int, examples: int, train_seconds: Iterable[float]) -> None:
        """Counts what a client did since it was last heard of."""
        self._reconnects.inc(reconnects)
        self._examples.inc(examples)
        for seconds in train_seconds:
            self._trained.observe(seconds)

    def show_devices(self, counts: Mapping[str, int]) -> None:
        """Shows how many connected clients use which of DEVICES."""
        for device in DEVICES:
            self._devices.labels(device).set(counts.get(device, 0))

    def show_versions(self, counts: Mapping[str, int]) -> None:
        """Shows how many connected clients run which version, the usual ones by name."""
        usual = sorted(counts, key=lambda version: (-counts[version], version))[:VERSIONS]
        shown = Counts({version: counts[version] for version in usual})
        shown[OTHER] += sum(counts.values()) - shown.total()
        for version in self._shown - shown.keys():
            self._versions.remove(version)
        for version, count in shown.items():
            self._versions.labels(version).set(count)
        self._shown = frozenset(shown)

    def show_ailing(self, *, degraded: int, barred: int) -> None:
        """Shows how many connected clients fell back to the CPU, and how many may not train."""
        self._degraded.set(degraded)
        self._barred.set(barred)

    def show_oldest(self, at: float) -> None:
        """Shows when the client that is silent longest was last heard of, 0 if none is there."""
        self._oldest.set(at)

    def show_states(self, counts: Mapping[ClientState, int]) -> None:
        """Shows how many clients are in each state."""
        for state in ClientState:
            self._states.labels(state).set(counts.get(state, 0))
