"""The lock of a state directory, for a command that writes where a server might."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fednot.locked_directory import DirectoryInUseError, LockedDirectory
from server.state.database import StateError


@contextmanager
def occupied(state_dir: Path) -> Iterator[None]:
    """Keeps servers out. Raises StateError if one is in."""
    try:
        lock = LockedDirectory(state_dir)
    except DirectoryInUseError:
        raise StateError(f"a server runs on {state_dir}; stop it first") from None
    try:
        yield
    finally:
        lock.close()
