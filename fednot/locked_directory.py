"""A directory that one process at a time may use; the lock falls with the process."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from pathlib import Path
from typing import Final

_log = logging.getLogger("fednot.state")

LOCK_FILE: Final = "lock"


class DirectoryInUseError(OSError):
    """Another process holds the directory."""


class LockedDirectory:
    """A state directory for this user alone, made if it is not there, and locked.

    One that others may enter is closed to them if it is this user's; a shared one (of another user,
    or with the sticky bit) is left as it is, with a warning.
    """

    def __init__(self, path: Path) -> None:
        """Raises DirectoryInUseError if another process has it, OSError if it cannot be used."""
        if not path.is_dir():
            path.mkdir(parents=True, mode=0o700)
            path.chmod(0o700)
        _close_to_others(path)
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


def _close_to_others(path: Path) -> None:
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if not mode & 0o077:
        return
    if found.st_uid == os.geteuid() and not mode & stat.S_ISVTX:
        path.chmod(mode & ~0o077)
        _log.info("%s had mode %04o and is closed to other users now", path, mode)
    else:
        _log.warning(
            "other users may enter the state directory %s (mode %04o); give --state-dir one of "
            "this user's own",
            path,
            mode,
        )
