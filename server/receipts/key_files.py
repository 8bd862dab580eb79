"""The private key that signs receipts: a file of the state directory, for its owner alone.

A new key is first written beside the file, then made known to the database, and only then takes
the file's place: whatever ends the server in between, the next start goes on from there.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Final

from fednot.receipt import ReceiptError, SigningKey
from server.state import durable
from server.state.database import StateError

log = logging.getLogger("server.receipts")

KEY_FILE: Final = "receipt-key.pem"
NEXT_FILE: Final = "receipt-key.next.pem"
OWNER_ONLY: Final = 0o600


class KeyFiles:
    """The key in a state directory, and the one that is to take its place."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir
        self.path: Final = state_dir / KEY_FILE
        self.next_path: Final = state_dir / NEXT_FILE

    def current(self) -> SigningKey | None:
        """The key that is in its place; None if there is none that can be read."""
        return _read(self.path)

    def upcoming(self) -> SigningKey | None:
        """The key that was to take its place when the server ended."""
        return _read(self.next_path)

    def prepare(self, key: SigningKey) -> None:
        """Writes a key that is to take the place of the one there; none may be prepared."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self.next_path, flags, OWNER_ONLY)
        try:
            durable.append(descriptor, key.private_pem(), "receipt-key")
            durable.sync(descriptor, "receipt-key")
        finally:
            os.close(descriptor)
        durable.sync_directory(self._folder, "next-receipt-key")

    def adopt(self) -> None:
        """Overwrites the key that is in its place, if any, and puts the prepared one there."""
        _overwrite(self.path)
        durable.rename(self.next_path, self.path, "receipt-key")
        durable.sync_directory(self._folder, "receipt-key-directory")

    def discard(self) -> None:
        """Removes a prepared key that the database knows nothing of; it signed nothing."""
        if self.next_path.exists():
            _overwrite(self.next_path)
            durable.remove(self.next_path, "next-receipt-key")


def _read(path: Path) -> SigningKey | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"the key of receipts {path} cannot be read: {error}") from error
    with os.fdopen(descriptor, "rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            log.warning("%s could be read by others than its owner; that is ended", path)
            os.fchmod(file.fileno(), OWNER_ONLY)
        pem = file.read()
    try:
        return SigningKey.from_private_pem(pem)
    except ReceiptError:
        log.warning("%s holds no key that can be used", path)
        return None


def _overwrite(path: Path) -> None:
    """Writes zeros over a file, so that its blocks do not keep what it held."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        durable.overwrite(descriptor, os.fstat(descriptor).st_size, "old-receipt-key")
        durable.sync(descriptor, "old-receipt-key")
    finally:
        os.close(descriptor)
