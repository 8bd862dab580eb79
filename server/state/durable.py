"""Every call that makes something last on a disk, each with a name that tests can stop at.

No other module of the server writes, syncs, renames or removes what must survive.
"""

from __future__ import annotations

import os
from pathlib import Path

from server.failpoints import around


def sync(descriptor: int, name: str) -> None:
    """Has the system write what a file holds to the disk, and waits for it."""
    with around(f"sync.{name}"):
        os.fsync(descriptor)


def sync_directory(path: Path, name: str) -> None:
    """As `sync`, for the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(descriptor, name)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path, name: str) -> None:
    """Gives a file another name, in place of a file that has it; lasting once that is synced."""
    with around(f"rename.{name}"):
        source.replace(target)


def remove(path: Path, name: str) -> None:
    """Removes a file; lasting once its directory is synced."""
    with around(f"remove.{name}"):
        path.unlink()


def append(descriptor: int, data: bytes, name: str) -> None:
    """Writes at a file's end; lasting once the file is synced. Raises OSError half-way if it must.

    The descriptor must have been opened with O_APPEND.
    """
    with around(f"append.{name}"):
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]


def overwrite(descriptor: int, size: int, name: str) -> None:
    """Writes `size` zeros over a file's beginning; lasting once the file is synced."""
    with around(f"overwrite.{name}"):
        left = size
        while left:
            left -= os.pwrite(descriptor, bytes(left), size - left)


def truncate(descriptor: int, size: int, name: str) -> None:
    """Cuts off a file's end; lasting once the file is synced."""
    with around(f"truncate.{name}"):
        os.ftruncate(descriptor, size)
