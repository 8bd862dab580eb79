"""The client's state directory: the name and the instance it keeps, and the lock of one process."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from fednot.locked_directory import DirectoryInUseError, LockedDirectory
from fednot.whole_file import write_whole

IDENTITY_FILE: Final = "identity.json"


class StateError(ValueError):
    """A state directory that this process may not use, and what to do about it."""


@dataclass(frozen=True)
class Identity:
    """A client's name and when it first joined (ISO 8601, UTC).

    `instance` tells the server two state directories of one name apart; "" in files of older
    versions.
    """

    name: str
    first_joined: str
    instance: str


class StateDirectory:
    """A locked state directory. The lock falls with the process, however it ends."""

    def __init__(self, path: Path, lock: LockedDirectory, identity: Identity | None) -> None:
        self.path = path
        self.identity = identity
        self.instance = (identity.instance if identity else "") or uuid.uuid4().hex
        self._lock = lock

    @classmethod
    def open(cls, path: Path, name: str) -> Self:
        """Makes or takes the directory for the client of this name.

        Raises StateError if it is another client's, if a running process has it, or if it cannot be
        read or written.
        """
        try:
            lock = LockedDirectory(path)
        except DirectoryInUseError as error:
            raise StateError(
                f"{path} is in use by another running client; stop it or give --state-dir another"
            ) from error
        except OSError as error:
            raise StateError(f"the state directory {path} cannot be used: {error}") from error
        try:
            return cls(path, lock, _read_for(path / IDENTITY_FILE, name))
        except StateError:
            lock.close()
            raise

    def remember(self, name: str) -> None:
        """Writes the identity, durably and whole, at the first join; later it does nothing."""
        known = self.identity
        if known is not None and known.instance:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        identity = Identity(name, known.first_joined if known else now, self.instance)
        write_whole(self.path / IDENTITY_FILE, json.dumps(asdict(identity)) + "\n")
        self.identity = identity

    def close(self) -> None:
        """Gives the lock back."""
        self._lock.close()


def _read_for(path: Path, name: str) -> Identity | None:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        instance = str(row.get("instance", ""))
        identity = Identity(str(row["name"]), str(row["first_joined"]), instance)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(
            f"{path} is no identity file ({error}); restore it or remove it"
        ) from error
    if identity.name != name:
        raise StateError(
            f"{path.parent} belongs to the client {identity.name!r}, not {name!r}; "
            "give each client its own --state-dir"
        )
    return identity
