"""Calls of gRPC, under the names and labels of go-grpc-prometheus, for which dashboards exist."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from fednot.errors import Reason

_METHOD = ["grpc_type", "grpc_service", "grpc_method"]


class CallMetrics:
    """Calls by method and code, and refusals by reason."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = Counter(
            "grpc_server_started_total",
            "Total number of RPCs started on the server.",
            _METHOD,
            registry=registry,
        )
        self._handled = Counter(
            "grpc_server_handled_total",
            "Total number of RPCs completed on the server, regardless of success or failure.",
            [*_METHOD, "grpc_code"],
            registry=registry,
        )
        self._received = Counter(
            "grpc_server_msg_received_total",
            "Total number of RPC stream messages received on the server.",
            _METHOD,
            registry=registry,
        )
        self._sent = Counter(
            "grpc_server_msg_sent_total",
            "Total number of gRPC stream messages sent by the server.",
            _METHOD,
            registry=registry,
        )
        self._handling = Histogram(
            "grpc_server_handling_seconds",
            "Histogram of response latency (seconds) of gRPC that had been application-level "
            "handled by the server.",
            _METHOD,
            registry=registry,
        )
        self._refusals = Counter(
            "fednot_refusals_total", "Refused calls by reason", ["reason"], registry=registry
        )

    def refused(self, reason: Reason) -> None:
        """Counts a call that was refused."""
        self._refusals.labels(reason).inc()
