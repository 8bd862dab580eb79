"""Each connection costs a file handle; a server without one left can write no state."""

from __future__ import annotations

import contextlib
import logging
import resource
from typing import Final

OTHERS: Final = 512
"""What the server needs beside its connections: state, spill files, the stores, the listeners."""

log = logging.getLogger("server.limits")


def connections_within(wanted: int, listeners: int) -> int:
    """How many connections each of so many listeners may have, and raises the process's limit for
    them as far as the system allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * listeners + OTHERS
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted * listeners + OTHERS <= soft:
        return wanted
    fits = max(1, (soft - OTHERS) // listeners)
    log.warning(
        "a listener takes %d connections and not %d: this process may open %d files; raise it "
        "(ulimit -n, LimitNOFILE) or lower --max-connections",
        *(fits, wanted, soft),
    )
    return fits
