"""The guard of every commit: what a deletion has overtaken is never written."""

from __future__ import annotations


class FencedError(Exception):
    """The state moved on, so nothing of this transaction may be committed."""
