"""What ails the server itself: its event loop, its database, its disks."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

DATABASE_OPERATIONS: Final = ("read", "write")
DISK_OPERATIONS: Final = ("read", "write", "delete")


class FaultMetrics:
    """Lag of the event loop, errors of database and disk, and the room that is left."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Histogram(
            "fednot_event_loop_lag_seconds",
            "How much later than due the server's event loop woke a task that slept",
            buckets=(0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self._database = Counter(
            "fednot_database_errors_total",
            "Transactions that failed because of the database or its disk, by operation",
            ["operation"],
            registry=registry,
        )
        self._disk = Counter(
            "fednot_disk_errors_total",
            "Files and objects of the state that could not be read, written or deleted",
            ["operation"],
            registry=registry,
        )
        self._free = Gauge(
            "fednot_state_free_bytes",
            "Free bytes of the fullest disk that the server writes to",
            registry=registry,
        )
        self._capacity = Gauge(
            "fednot_state_capacity_bytes",
            "The size of the disk that fednot_state_free_bytes is about",
            registry=registry,
        )
        for operation in DATABASE_OPERATIONS:
            self._database.labels(operation)
        for operation in DISK_OPERATIONS:
            self._disk.labels(operation)

    def lagged(self, seconds: float) -> None:
        """Counts how much too late the event loop woke a task."""
        self._lag.observe(seconds)

    def of_database(self, operation: str) -> None:
        """Counts a transaction that failed; the operation is one of DATABASE_OPERATIONS."""
        self._database.labels(operation).inc()

    def of_disk(self, operation: str) -> None:
        """Counts a failed operation on a disk or store, one of DISK_OPERATIONS."""
        self._disk.labels(operation).inc()

    def show_room(self, free: int, capacity: int) -> None:
        """Shows the bytes of the fullest disk that the server writes to."""
        self._free.set(free)
        self._capacity.set(capacity)
