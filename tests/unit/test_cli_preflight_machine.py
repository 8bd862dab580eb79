"""`fednot preflight` on a new machine: each check of the machine itself fails for a real cause."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.handmade_authority import HandMadeAuthority, days_from_now, serving
from typer.testing import CliRunner

from fednot.cli.failures import CliError
from fednot.cli.main import app
from fednot.cli.preflight import software, storage
from fednot.identity.subject import Role

TASK = """
import torch
import fednot

class Tiny(fednot.Task):
    def __init__(self, rows="3"):
        self.rows = int(rows)

    def build_model(self):
        return torch.nn.Linear(2, 2)

    def train_data(self):
        return [0] * self.rows
"""
NOBODY = 65534


def checks(*arguments: str, code: int) -> dict[str, dict[str, str]]:
    result = CliRunner().invoke(
        app, ["preflight", *arguments, "--format", "json"], env={}, catch_exceptions=False
    )
    assert result.exit_code == code, result.output
    return {row["name"]: row for row in json.loads(result.stdout)["checks"]}


def failed(*arguments: str, name: str) -> dict[str, str]:
    """The check of a name, which fails and says what to do."""
    row = checks(*arguments, code=1)[name]
    assert (row["outcome"], row["reason"]) == ("failed", "LOCAL")
    assert row["remedy"]
    return row


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def task(tmp_path: Path) -> str:
    (tmp_path / "tiny.py").write_text(TASK)
    return f"{tmp_path}/tiny.py:Tiny"


@pytest.fixture
def anyones_folder() -> Iterator[Path]:
    """A folder that everybody may enter, and nobody but its owner write to."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, timeout=20, check=False)
    if made.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], timeout=20, check=True)


def test_a_machine_alone_is_looked_at_without_an_address() -> None:
    found = checks(code=0)
    assert list(found) == ["python", "torch", "device", "disk"]


def test_a_daemon_has_its_own_checks(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    found = checks("--for", "client", *state, "--listen", "127.0.0.1:0", code=0)
    names = ["python", "torch", "device", "state", "rights", "in use", "disk", "port 0"]
    assert list(found) == names
    assert not (tmp_path / "state").exists()


def test_an_old_python() -> None:
    with pytest.raises(CliError, match=r"this is Python 3\.10\.2 .*needs 3\.11 or newer") as told:
        software.python((3, 10, 2))
    assert told.value.remedy


def test_an_old_python_that_runs_a_checkout_is_told_what_is_needed() -> None:
    program = (
        "import sys; sys.version_info = (3, 10, 2); sys.version = '3.10.2 (main)'\n"
        "from fednot.cli.main import main"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: fednot needs Python 3.11 or newer, and this is 3.10.2 (")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ImportError('libcudart.so.12: cannot open')", "cannot be imported: libcudart"),
        ("raise ModuleNotFoundError('No module named torch')", "cannot be imported: No module"),
    ],
)
def test_a_torch_that_cannot_be_imported(source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(source)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from fednot.cli.main import app\n"
        "app(['preflight', '--device', 'cpu', '--format', 'json'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1, done.stderr
    _, torch, device = json.loads(done.stdout)["checks"]
    assert said in torch["message"]
    assert "pip install" in torch["remedy"]
    assert device["message"] == "not tried, since torch failed"


def test_a_device_that_is_not_there() -> None:
    assert "torch sees" in failed("--device", "cuda:123", name="device")["message"]
    assert "is no device" in failed("--device", "gpu", name="device")["message"]


@pytest.mark.parametrize(
    ("built_for", "said"), [(None, "a build for CPUs alone"), ("12.6", "built for CUDA 12.6")]
)
def test_a_gpu_that_torch_cannot_use(
    built_for: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    monkeypatch.setattr(software, "_DRIVER", tmp_path)
    monkeypatch.setattr("torch.version.cuda", built_for)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    row = checks("--device", "auto", code=0)["device"]
    assert row["outcome"] == "warning"
    assert said in row["message"]
    assert row["remedy"]


def test_a_task_that_loads(task: str) -> None:
    found = checks("--task", task, "--task-arg", "rows=7", code=0)
    assert "a model of 6 parameters and 7 samples to train on" in found["task"]["message"]


@pytest.mark.parametrize(
    ("place", "arguments", "said"),
    [
        ("/nowhere.py:Tiny", [], "does not exist"),
        ("{task}y", [], "has no Tinyy"),
        ("{task}", ["--task-arg", "rows=x"], "does not take"),
        ("{task}", ["--task-arg", "rows=0"], "is empty"),
    ],
)
def test_a_task_that_does_not_load(place: str, arguments: list[str], said: str, task: str) -> None:
    row = failed("--task", place.format(task=task), *arguments, name="task")
    assert said in row["message"]


def test_a_port_that_is_taken(taken: str) -> None:
    row = failed("--listen", taken, name=f"port {taken.rpartition(':')[2]}")
    assert row["message"] == f"nothing can listen on {taken}: Address already in use"
    assert "ss -ltnp" in row["remedy"]


def test_an_address_of_another_machine() -> None:
    row = failed("--listen", "203.0.113.7:50051", name="port 50051")
    assert "0.0.0.0" in row["remedy"]


def test_what_is_no_address_is_a_wrong_command_line() -> None:
    result = CliRunner().invoke(app, ["preflight", "--listen", "nowhere"], env={})
    assert result.exit_code == 2
    assert "is not HOST:PORT" in result.stderr


def test_a_state_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    row = failed("--state-dir", str(tmp_path / "state"), name="state")
    assert "is no directory" in row["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_state_directory_of_another_user(anyones_folder: Path) -> None:
    """Root ignores modes, so a child becomes nobody; its exit code tells what it was told."""
    folder = anyones_folder
    child = os.fork()
    if child == 0:
        os.seteuid(NOBODY)
        try:
            storage.writable(folder)
        except CliError as error:
            os._exit(7 if f"user {NOBODY} cannot write in {folder}" in error.message else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_state_directory_that_others_may_enter_or_have(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o755)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = checks("--state-dir", str(folder), code=0)
    assert (found["rights"]["outcome"], found["in use"]["outcome"]) == ("warning", "warning")
    assert found["rights"]["remedy"] == f"chmod 700 {folder}"
    folder.chmod(0o700)
    found = checks("--state-dir", str(folder), code=0)
    assert (found["rights"]["outcome"], found["in use"]["outcome"]) == ("ok", "ok")


def test_a_disk_without_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        row = failed("--state-dir", str(disk), name="disk")
    assert re.search(r"\b[01]\.\d MB are free .* and 64 MB are the least", row["message"])


def test_a_disk_that_is_mounted_for_reading_and_one_that_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk / "all of it").write_bytes(bytes(1 << 20))
        full = failed("--state-dir", str(disk), name="state")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], timeout=20, check=True)
        closed = failed("--state-dir", str(disk), name="state")
    assert full["remedy"].startswith("Make room on its disk, or give --state-dir")
    assert closed["remedy"].startswith("Mount the file system of ")
    assert "chown" not in closed["remedy"]


def test_a_stranger_sees_the_names_of_a_server(tmp_path: Path) -> None:
    authority = HandMadeAuthority(days=400)
    with serving(authority.server(tmp_path / "s", days=100)) as address:
        found = checks("--server", address, code=0)
    assert {name: row["outcome"] for name, row in found.items()} == {
        "address": "ok",
        "port": "ok",
        "tls": "warning",
    }
    assert "--identity" in found["tls"]["remedy"]


def test_a_server_of_another_name_and_one_that_has_expired(tmp_path: Path) -> None:
    authority = HandMadeAuthority(days=400)
    other = authority.identity(tmp_path / "o", Role.SERVER, "s", hosts=("fed.example.org",))
    with serving(other) as address:
        row = checks("--server", address, code=3)["tls"]
    assert row["reason"] == "SERVER_NAME_MISMATCH"
    assert "is for fed.example.org, not for 127.0.0.1" in row["message"]
    old = authority.identity(
        *(tmp_path / "e", Role.SERVER, "s"),
        hosts=("127.0.0.1",),
        begins=days_from_now(-9),
        days=8,
    )
    with serving(old) as address:
        assert checks("--server", address, code=3)["tls"]["reason"] == "SERVER_CERTIFICATE_EXPIRED"


def test_a_servers_own_identity(tmp_path: Path) -> None:
    authority = HandMadeAuthority(days=400)
    authority.server(tmp_path / "s", days=100)
    authority.identity(tmp_path / "c", Role.CLIENT, "c1", days=100)
    where: Any = ("--for", "server", "--state-dir", str(tmp_path), "--listen", "127.0.0.1:0")
    found = checks(*where, "--identity", str(tmp_path / "s"), code=0)
    assert "127.0.0.1" in found["names"]["message"]
    row = checks(*where, "--identity", str(tmp_path / "c"), code=3)["identity"]
    assert row["reason"] == "WRONG_ROLE"
