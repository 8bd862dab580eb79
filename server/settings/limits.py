"""What callers may take."""

from __future__ import annotations

from pydantic import ByteSize, Field

from fednot.settings import Settings
from server.limits.callers import CallLimits


class LimitSettings(Settings):
    """Limits on callers."""

    max_message: ByteSize = Field(
        ByteSize(4 << 20), ge=64 << 10, description="bytes of a gRPC message at most, as 4MiB"
    )
    max_update: ByteSize | None = Field(
        None, description="bytes of an encoded update at most; empty for what the model needs"
    )
    max_tensors: int = Field(100_000, ge=1, description="tensors of a model at most")
    max_connections: int = Field(
        2000, ge=1, description="connections to a listener at most; more are closed at once"
    )
    connections_per_identity: int = Field(
        32, ge=1, description="connections of one certificate's name at most"
    )
    streams_per_connection: int = Field(
        32, ge=1, description="calls that one connection may have under way"
    )
    requests_per_minute: int = Field(
        6000, ge=1, description="calls of one identity in a minute at most"
    )
    deletions_per_minute: int = Field(
        60, ge=1, description="calls of one identity in a minute that begin or end a deletion"
    )
    joins_per_minute: int = Field(60, ge=1, description="joins of one client in a minute at most")
    enrolments_per_minute: int = Field(
        120, ge=1, description="enrolments in a minute at most, whoever asks"
    )

    def call_limits(self) -> CallLimits:
        """What one caller may take."""
        return CallLimits(
            requests=self.requests_per_minute,
            deletions=self.deletions_per_minute,
            joins=self.joins_per_minute,
            enrolments=self.enrolments_per_minute,
            connections=self.connections_per_identity,
        )
