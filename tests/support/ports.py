"""Ports for servers of tests that run side by side."""

from __future__ import annotations

import itertools
import os
import socket

LOWEST, HIGHEST = 15_000, 32_000
"""Below the ports that Linux gives to outgoing connections."""
WORKERS = 4
_SPAN = (HIGHEST - LOWEST) // WORKERS


def _candidates() -> itertools.cycle[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    lowest = LOWEST + worker % WORKERS * _SPAN
    start = os.getpid() % _SPAN
    return itertools.cycle(lowest + (start + step) % _SPAN for step in range(_SPAN))


_ports = _candidates()


def free_port() -> int:
    """A port of loopback that is free, and that no other worker of this run is given."""
    for port in itertools.islice(_ports, _SPAN):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
