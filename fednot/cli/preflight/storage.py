"""Whether the state directory can be written, is this user's alone, and has room."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fednot.cli.failures import local
from fednot.cli.preflight.check import Check, Outcome, Step, ok
from fednot.locked_directory import LOCK_FILE

_TRIAL: Final = ".fednot-preflight-"
LEAST_FREE: Final = 64_000_000
"""Bytes below which nothing can be kept."""
LITTLE_FREE: Final = 1_000_000_000
"""Bytes below which a warning is due: a version, an update and a journal of most models."""


def steps(folder: Path, *, is_state: bool) -> Iterator[Step]:
    """The checks of a state directory; of another folder only the room."""
    if is_state:
        yield "state", lambda: writable(folder), ()
        yield "rights", lambda: closed(folder), ("state",)
        yield "in use", lambda: unused(folder), ("state",)
    yield "disk", lambda: room(folder), ()


def writable(folder: Path) -> Check:
    """Raises CliError (LOCAL) unless a file can be made in the folder, or the folder itself."""
    place = _existing(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=_TRIAL, buffering=0) as file:
            file.write(b"fednot")
    except NotADirectoryError as error:
        raise local(f"{place} is no directory", "Give --state-dir another place.") from error
    except OSError as error:
        told = f"user {os.geteuid()} cannot write in {place}: {error.strerror}"
        way = f"{_way_to_write(error, place)}, or give --state-dir another place."
        raise local(told, way) from error
    told = "can be written" if place == folder else f"is not there yet and can be made in {place}"
    return ok("state", f"{folder} {told}")


def closed(folder: Path) -> Check:
    """A warning if others may enter the folder."""
    if not folder.is_dir():
        return ok("rights", f"{folder} is made for its owner alone")
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid():
        told = f"{folder} is user {found.st_uid}'s, and this is user {os.geteuid()}"
        return Check("rights", Outcome.WARNING, told, f"chown -R {os.geteuid()} {folder}")
    if mode & 0o077:
        told = f"others than its owner may enter {folder} (mode {mode:04o})"
        return Check("rights", Outcome.WARNING, told, f"chmod 700 {folder}")
    return ok("rights", f"{folder} is its owner's alone")


def unused(folder: Path) -> Check:
    """A warning if a running process has the folder."""
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ok("in use", f"no process has {folder}")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        told = f"a running process has {folder}"
        return Check("in use", Outcome.WARNING, told, "Stop it, or give --state-dir another place.")
    finally:
        os.close(handle)
    return ok("in use", f"no process has {folder}")


def room(folder: Path) -> Check:
    """Raises CliError (LOCAL) if the disk is full; a warning if it soon may be."""
    free = shutil.disk_usage(_existing(folder)).free
    amount = f"{free / 1e9:.2f} GB" if free >= LITTLE_FREE else f"{free / 1e6:.1f} MB"
    told = f"{amount} are free on the disk of {folder}"
    remedy = "Make room, or take a folder on another disk: --state-dir."
    if free < LEAST_FREE:
        raise local(f"{told}, and {LEAST_FREE / 1e6:.0f} MB are the least", remedy)
    if free < LITTLE_FREE:
        return Check("disk", Outcome.WARNING, told, remedy)
    return ok("disk", told)


def _way_to_write(error: OSError, place: Path) -> str:
    if error.errno == errno.EROFS:
        return f"Mount the file system of {place} for writing"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Make room on its disk"
    return f"Give it to the user that runs fednot (chown {os.geteuid()} {place})"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return folder if place == folder.absolute() else place
