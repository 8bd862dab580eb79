"""The state directory: one name, one process, private files."""

import stat
from pathlib import Path

import pytest

from client.state_directory import IDENTITY_FILE, StateDirectory, StateError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_identity_is_private_and_survives(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state"
    state = StateDirectory.open(path, "c7")
    assert state.identity is None
    state.remember("c7")
    first = state.identity
    state.remember("c7")
    state.close()
    assert (mode(path), mode(path / IDENTITY_FILE)) == (0o700, 0o600)
    again = StateDirectory.open(path, "c7")
    assert again.identity == first
    again.close()


def test_another_name_is_refused_and_the_lock_given_back(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path, "c7")
    state.remember("c7")
    state.close()
    with pytest.raises(StateError, match="belongs to the client 'c7', not 'c8'"):
        StateDirectory.open(tmp_path, "c8")
    StateDirectory.open(tmp_path, "c7").close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path, "c7")
    with pytest.raises(StateError, match="in use by another running client"):
        StateDirectory.open(tmp_path, "c7")
    state.close()


def test_the_instance_is_made_once_and_differs_from_another_directorys(tmp_path: Path) -> None:
    instances = set()
    for path in (tmp_path / "one", tmp_path / "one", tmp_path / "two"):
        state = StateDirectory.open(path, "c7")
        instances.add(state.instance)
        state.remember("c7")
        state.close()
    assert len(instances) == 2
    assert all(instances)


def test_an_identity_of_an_older_version_is_given_an_instance(tmp_path: Path) -> None:
    (tmp_path / IDENTITY_FILE).write_text('{"name": "c7", "first_joined": "2026-01-01T00:00:00"}')
    state = StateDirectory.open(tmp_path, "c7")
    state.remember("c7")
    state.close()
    again = StateDirectory.open(tmp_path, "c7")
    assert again.identity is not None
    assert again.identity.first_joined == "2026-01-01T00:00:00"
    assert again.instance == again.identity.instance == state.instance
    again.close()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "c7"}', "\x00"])
def test_a_damaged_identity_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / IDENTITY_FILE).write_text(text)
    with pytest.raises(StateError, match="no identity file"):
        StateDirectory.open(tmp_path, "c7")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StateError, match="cannot be used"):
        StateDirectory.open(tmp_path / "state", "c7")
