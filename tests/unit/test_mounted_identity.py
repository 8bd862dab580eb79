"""An identity that root mounts for this user, as Kubernetes does with a secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.identities import Identities

from fednot.identity.diagnosis import exposed_key
from fednot.identity.subject import Role


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Identities(tmp_path).of(Role.CLIENT, "clinic-a")


@pytest.mark.parametrize(
    ("mode", "owner", "is_exposed"),
    [
        (0o600, "own", False),
        (0o440, "own", True),
        (0o440, "other", False),
        (0o444, "other", True),
        (0o460, "other", True),
    ],
)
def test_a_key_of_another_is_read_by_the_group(
    folder: Path, mode: int, owner: str, is_exposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = folder / "key.pem"
    key.chmod(mode)
    user = key.stat().st_uid + (owner == "other")
    monkeypatch.setattr(os, "getuid", lambda: user)
    assert bool(exposed_key(folder)) == is_exposed
