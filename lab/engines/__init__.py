"""Engines: where the clients of a cell run. In this process, on Ray, or as real processes."""

from __future__ import annotations

from typing import Final

from lab.config import ConfigError
from lab.engines.engine import Engine

ENGINES: Final = ("in-process", "ray", "grpc")


def engine_named(name: str, address: str = "") -> Engine:
    """The engine of a name; `address` is that of a Ray cluster. Raises ConfigError."""
    if name == "in-process":
        from lab.engines.in_process import InProcess

        return InProcess()
    if name == "grpc":
        from lab.engines.grpc import OverGrpc

        return OverGrpc()
    if name == "ray":
        from lab.engines.ray import OnRay

        return OnRay(address)
    raise ConfigError(f"there is no engine {name!r}; there are {', '.join(ENGINES)}")
