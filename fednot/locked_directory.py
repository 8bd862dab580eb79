"""A directory that one process at a time may use; the lock falls with the process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

LOCK_FILE: Final = "lock"


class DirectoryInUseError(OSError):
    """Another process holds the directory."""


class LockedDirectory:
    """A state directory, made with mode 0700 if it is not there, and locked."""

    def __init__(self, path: Path) -> None:
        """Raises DirectoryInUseError if another process has it, OSError if it cannot be used."""
        if not path.is_dir():
            path.mkdir(parents=True, mode=0o700)
            path.chmod(0o700)
        self.path = path
        self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise DirectoryInUseError(f"{path} is in use by another process") from None

    def close(self) -> None:
        """Gives the lock back."""
        os.close(self._lock)
