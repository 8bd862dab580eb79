"""Replaces the files of an identity so that a crash loses neither the old pair nor the new one, and
so that two programs that do it at once do not mix theirs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.identity.folder import (
    Credentials,
    read_credentials,
    write_credentials,
    write_private,
)
from fednot.identity.locking import holding

REPLACEMENT: Final = ".replacement.json"
"""The new files of an identity while they take the place of the old ones, one after the other."""
LOCK: Final = ".replacement.lock"


def replace(folder: Path, *, chain: bytes, trust: bytes, key: bytes) -> Credentials:
    """Replaces an identity's files so that a process that dies half way loses neither pair; blocks.

    Gives what is there then. Raises OSError, as TimeoutError if another program replaces them for
    `locking.LOCK_SECONDS`, and FednotError (INVALID_IDENTITY) for what is no identity.
    """
    content = {"chain": chain.decode(), "trust": trust.decode(), "key": key.decode()}
    with holding(folder / LOCK):
        write_private(folder / REPLACEMENT, json.dumps(content).encode())
        write_credentials(folder, chain=chain, trust=trust, key=key)
        (folder / REPLACEMENT).unlink(missing_ok=True)
        return read_credentials(folder)


def finish_replacement(folder: Path) -> None:
    """Ends a replacement that was cut off, if one was; for the start of whoever uses the folder.

    Waits for one that is under way. Raises FednotError (INVALID_IDENTITY) if it can be neither read
    nor written.
    """
    if not (folder / REPLACEMENT).exists():
        return
    try:
        with holding(folder / LOCK):
            _finish(folder)
    except OSError as error:
        raise _invalid(f"{folder / REPLACEMENT} cannot be put in place: {error}") from error


def _finish(folder: Path) -> None:
    place = folder / REPLACEMENT
    try:
        content = json.loads(place.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _invalid(f"{place} cannot be read; remove it: {error}") from error
    try:
        if not _fits_together(folder):
            new = {name: str(content[name]).encode() for name in ("chain", "trust", "key")}
            write_credentials(folder, **new)
        place.unlink(missing_ok=True)
    except (KeyError, TypeError) as error:
        raise _invalid(f"the new files in {place} cannot be put in place: {error}") from error


def _fits_together(folder: Path) -> bool:
    try:
        read_credentials(folder)
    except FednotError:
        return False
    return True


def _invalid(message: str) -> FednotError:
    return FednotError(Reason.INVALID_IDENTITY, message)
