"""The server's settings: a file for each group of them, and `server`, which is all."""

from typing import Final

from server.settings.server import ServerSettings
from server.settings.state import StateSettings

ENVIRONMENT_PREFIX: Final = "FEDNOT_SERVER_"

__all__ = ["ENVIRONMENT_PREFIX", "ServerSettings", "StateSettings"]
