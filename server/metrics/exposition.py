"""All metrics of the server in one registry, and their exposition."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from server.metrics.calls import CallMetrics
from server.metrics.deletions import DeletionMetrics
from server.metrics.faults import FaultMetrics
from server.metrics.fleet import FleetMetrics
from server.metrics.identity import IdentityMetrics
from server.metrics.model import ModelMetrics
from server.metrics.rounds import RoundMetrics
from server.metrics.transfers import TransferMetrics


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
        ProcessCollector(registry=registry)
        self.rounds = RoundMetrics(registry)
        self.model = ModelMetrics(registry)
        self.deletions = DeletionMetrics(registry)
        self.fleet = FleetMetrics(registry)
        self.transfers = TransferMetrics(registry)
        self.calls = CallMetrics(registry)
        self.faults = FaultMetrics(registry)
        self.identity = IdentityMetrics(registry)

    def render(self) -> tuple[bytes, str]:
        """The exposition and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
