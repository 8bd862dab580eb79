"""The settings of logs, which each program of a server has."""

from __future__ import annotations

from pydantic import Field

from fednot.logs import Format, Level
from fednot.settings import Settings


class LogSettings(Settings):
    """How a process logs."""

    log_level: Level = Field("info", description="debug, info, warning or error")
    log_format: Format = Field(
        "auto", description="json, human, or auto: human on a terminal and json elsewhere"
    )
