"""Tells of what a disk or a store could not do, on its way to whoever handles that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def telling(failed: Callable[[str], object], operation: str) -> Iterator[None]:
    """Calls `failed` with the operation if an OSError ends what is within, which goes on."""
    try:
        yield
    except OSError:
        failed(operation)
        raise
