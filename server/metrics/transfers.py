"""Bytes of models and updates: those that moved, and those that are held."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

DIRECTIONS: Final = ("sent", "received")


class TransferMetrics:
    """Transfers over gRPC and the data channel, uploads under way, and what memory they take."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._moved = Counter(
            "fednot_transfer_bytes_total",
            "Model bytes moved between server and clients",
            ["direction"],
            registry=registry,
        )
        self._beside_grpc = Counter(
            "fednot_data_channel_bytes_total",
            "Those of fednot_transfer_bytes_total that went over the data channel",
            ["direction"],
            registry=registry,
        )
        self._connections = Gauge(
            "fednot_data_connections", "Open connections of the data channel", registry=registry
        )
        self._uploads = Gauge(
            "fednot_uploads", "Uploads that are under way by state", ["state"], registry=registry
        )
        self._spilled = Counter(
            "fednot_spilled_uploads_total",
            "Slow uploads that moved from memory to a spill file",
            registry=registry,
        )
        self._buffered = Gauge(
            "fednot_buffered_bytes",
            "Memory that models, sums and arriving updates take now, spill files excluded",
            registry=registry,
        )
        for direction in DIRECTIONS:
            self._moved.labels(direction)
            self._beside_grpc.labels(direction)
        self.show_uploads(receiving=0, waiting=0, cut=0)

    def moved(self, direction: str, num_bytes: int) -> None:
        """Counts model bytes that gRPC moved; the direction is one of DIRECTIONS."""
        self._moved.labels(direction).inc(num_bytes)

    def moved_beside_grpc(self, direction: str, num_bytes: int) -> None:
        """Counts model bytes that the data channel moved; the direction is one of DIRECTIONS."""
        self._moved.labels(direction).inc(num_bytes)
        self._beside_grpc.labels(direction).inc(num_bytes)

    def spilled(self) -> None:
        """Counts a slow upload that moved from memory to a spill file."""
        self._spilled.inc()

    def show_connections(self, count: int) -> None:
        """Shows how many connections the data channel has."""
        self._connections.set(count)

    def show_uploads(self, **counts: int) -> None:
        """Shows how many uploads are receiving, waiting for a slot, and cut but kept."""
        for state, count in counts.items():
            self._uploads.labels(state).set(count)

    def show_buffered(self, num_bytes: int) -> None:
        """Shows how much memory models, sums and arriving updates take."""
        self._buffered.set(num_bytes)
