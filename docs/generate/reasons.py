"""The page of reasons, from the catalogue of errors."""

from __future__ import annotations

from docs.generate.markdown import cell, join, table
from fednot.errors import CATALOGUE


def page() -> str:
    """Each reason with its gRPC status code and remedy."""
    rows = [
        (f"`{reason}`", str(entry.code), cell(entry.remedy)) for reason, entry in CATALOGUE.items()
    ]
    return join(
        "# Reasons",
        "Every reason that a failed call may carry, with its gRPC status code and what to do. "
        "[protocol.md](../protocol.md#errors) tells how they travel.",
        table(("reason", "code", "remedy"), rows),
    )
