"""Calls of gRPC, under the names and labels of go-grpc-prometheus, for which dashboards exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from fednot.errors import Reason

UNKNOWN: Final = "unknown"
"""The service and the method of a call for something that is not served."""
_METHOD: Final = ["grpc_type", "grpc_service", "grpc_method"]


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
        for reason in Reason:
            self._refusals.labels(reason)

    def refused(self, reason: Reason) -> None:
        """Counts a call that was refused."""
        self._refusals.labels(reason).inc()

    def method(self, kind: str, service: str = UNKNOWN, name: str = UNKNOWN) -> MethodMetrics:
        """What is counted of one method, from 0; the kind is "unary", "client_stream" and so on.

        Only what is served may be named: a caller's word for a method is no label.
        """
        labels = (kind, service, name)
        self._handled.labels(*labels, "OK")
        return MethodMetrics(
            self._started.labels(*labels),
            self._received.labels(*labels),
            self._sent.labels(*labels),
            self._handling.labels(*labels),
            lambda code: self._handled.labels(*labels, code),
        )


class MethodMetrics:
    """Counts the calls of one method, and their messages."""

    def __init__(
        self,
        started: Counter,
        received: Counter,
        sent: Counter,
        handling: Histogram,
        handled: Callable[[str], Counter],
    ) -> None:
        self._started, self._received, self._sent = started, received, sent
        self._handling, self._handled = handling, handled

    def began(self) -> None:
        """Counts a call whose handler begins."""
        self._started.inc()

    def received(self) -> None:
        """Counts a message of a caller."""
        self._received.inc()

    def sent(self) -> None:
        """Counts a message to a caller."""
        self._sent.inc()

    def ended(self, code: str, seconds: float) -> None:
        """Counts a call that ended after so long, by its code as Go writes it: "NotFound"."""
        self._handling.observe(seconds)
        self._handled(code).inc()
