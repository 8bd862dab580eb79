"""The verb `preflight`: this machine and everything between it and a server, one by one."""

from __future__ import annotations

from fednot.cli.preflight.verb import app

__all__ = ["app"]
