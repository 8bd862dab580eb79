"""Two programs that replace the files of one identity at the same time."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest
from support.at_once import replace, replace_often

from fednot.errors import FednotError
from fednot.identity import folder, locking, replacement
from fednot.identity.authority import Authority
from fednot.identity.folder import Credentials, read_credentials
from fednot.identity.subject import Role, Subject

CLIENT = Subject(Role.CLIENT, "c1")
LOCK = ".replacement.lock"


def pairs(tmp_path: Path, count: int) -> list[Credentials]:
    authority = Authority.create(tmp_path / "authority")
    return [authority.issue(CLIENT, tmp_path / f"pair-{index}") for index in range(count)]


def test_two_replacements_never_mix(tmp_path: Path) -> None:
    """Each of two programs finds its own pair after it has written it, and a whole one stays."""
    first, second = pairs(tmp_path, 2)
    place = tmp_path / "identity"
    folder.write_credentials(place, chain=first.chain, trust=first.trust, key=first.private_key)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=replace_often, args=(place, mine.folder)) for mine in (first, second)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(110)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert read_credentials(place).certificate in (first.certificate, second.certificate)
    assert not (place / replacement.REPLACEMENT).exists()


def test_a_replacement_under_way_is_not_finished_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who starts in its middle waits for its end, and takes nothing away from it."""
    old, new = pairs(tmp_path, 2)
    halfway, go_on = threading.Event(), threading.Event()
    write = folder.write_private

    def slow(path: Path, content: bytes, **more: int) -> None:
        write(path, content, **more)
        if path.name == "key.pem" and not halfway.is_set():
            halfway.set()
            assert go_on.wait(10)

    monkeypatch.setattr(folder, "write_private", slow)
    writer = threading.Thread(target=replace, args=(old.folder, new))
    starter = threading.Thread(target=replacement.finish_replacement, args=(old.folder,))
    writer.start()
    assert halfway.wait(10)
    starter.start()
    starter.join(0.2)
    assert starter.is_alive()
    assert (old.folder / replacement.REPLACEMENT).exists()
    go_on.set()
    for thread in (writer, starter):
        thread.join(10)
    assert read_credentials(old.folder).certificate == new.certificate


def test_who_replaces_too_long_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = pairs(tmp_path, 2)
    monkeypatch.setattr(locking, "LOCK_SECONDS", 0.1)
    (old.folder / replacement.REPLACEMENT).write_text("{}")
    with locking.holding(old.folder / LOCK):
        with pytest.raises(TimeoutError, match=rf"holding .*{LOCK} for 0\.1 s"):
            replace(old.folder, new)
        with pytest.raises(FednotError, match=LOCK):
            replacement.finish_replacement(old.folder)
    assert read_credentials(old.folder) == old


def test_a_folder_that_cannot_be_written_needs_no_lock(tmp_path: Path) -> None:
    """Such as that of a Kubernetes secret, where nothing was cut off."""
    found = pairs(tmp_path, 1)[0]
    replacement.finish_replacement(found.folder)
    assert not (found.folder / LOCK).exists()
