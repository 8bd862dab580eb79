"""The settings of logs and traces."""

from __future__ import annotations

from pydantic import Field

from fednot.logs import Format, Level
from fednot.settings import Settings


class LogSettings(Settings):
    """Logs."""

    log_level: Level = Field("info", description="debug, info, warning or error")
    log_format: Format = Field(
        "auto", description="json, human, or auto: human on a terminal and json elsewhere"
    )


class TraceSettings(Settings):
    """Traces."""

    trace_endpoint: str = Field("", description="http(s)://HOST:4317 of OTLP; empty for no traces")
