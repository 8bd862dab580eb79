"""What several processes do to the same files at once; a spawned process can import it."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

from fednot.identity import locking, replacement
from fednot.identity.authority import Authority
from fednot.identity.folder import Credentials, read_credentials
from fednot.identity.subject import Role, Subject

PATIENCE = 100.0
"""Seconds that one waits for the others' changes, each of which syncs several files."""


@patch.object(locking, "LOCK_SECONDS", PATIENCE)
def sign_many(directory: Path, worker: int) -> None:
    authority = Authority.open(directory)
    for index in range(5):
        subject = Subject(Role.CLIENT, f"w{worker}-{index}")
        authority.issue(subject, directory / subject.name)
        if index % 2:
            authority.revoke(subject)


def replace(place: Path, found: Credentials) -> Credentials:
    return replacement.replace(place, chain=found.chain, trust=found.trust, key=found.private_key)


@patch.object(locking, "LOCK_SECONDS", PATIENCE)
def replace_often(place: Path, mine: Path) -> None:
    found = read_credentials(mine)
    for _ in range(10):
        assert replace(place, found).certificate == found.certificate
        replacement.finish_replacement(place)
