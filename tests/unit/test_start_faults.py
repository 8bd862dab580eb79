"""What is wrong at the start, with a Task or an identity, is told in a sentence, on both sides."""

from __future__ import annotations

import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.federation import run_server
from support.handmade_authority import HandMadeAuthority, days_from_now
from torch import nn

from client.settings import ClientSettings
from client.startup import StartError, prepare
from fednot import Task
from fednot.identity import certificates
from fednot.identity.authority import Authority
from fednot.identity.folder import read_credentials, write_credentials
from fednot.identity.keyring import Keyring
from fednot.identity.subject import Role, Subject
from fednot.locked_directory import LockedDirectory
from fednot.task_loading import TaskLoadError, calling
from server import initial_model
from server.identity import IdentityError, open_identity

BROKEN = """
import fednot
from fednot.data import DataError
from torch import nn

class Broken(fednot.Task):
    def build_model(self):
        return nn.Linear(1, 1)

    def test_data(self):
        raise DataError("the disk is not mounted")
"""


DIGITS = f"{Path(__file__).parents[1] / 'support' / 'small_digits.py'}:SmallDigits"

SMALL = """
import fednot
from torch import nn

class Small(fednot.Task):
    def build_model(self):
        return nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
"""


class WrongFirstLayer(Task):
    def build_model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def first_layers(self, model: nn.Module) -> list[str]:
        return ["no.such.weight"]

    def example_input(self) -> torch.Tensor:
        return torch.zeros(1, 2)


def test_whatever_a_task_raises_names_the_task() -> None:
    told = r"my_task.py:Mine failed at the start: 'no' \(KeyError\)"
    with pytest.raises(TaskLoadError, match=told), calling("my_task.py:Mine"):
        raise KeyError("no")


def test_a_wrong_first_layer_is_told_as_the_tasks_fault() -> None:
    initial = initial_model.from_task(WrongFirstLayer(), seed=0)
    with pytest.raises(TaskLoadError, match=r"WrongFirstLayer failed.*no\.such\.weight"):
        initial.trace()


def test_a_client_whose_task_has_no_training_data_says_so(tmp_path: Path) -> None:
    place = tmp_path / "broken.py"
    place.write_text(BROKEN)
    settings = ClientSettings(
        name="a", task=f"{place}:Broken", insecure=True, state_dir=tmp_path / "state"
    )
    with pytest.raises(StartError, match=r"must define train_data\(\)"):
        prepare(settings)


def test_a_server_whose_task_fails_exits_with_2_and_a_sentence(tmp_path: Path) -> None:
    place = tmp_path / "broken.py"
    place.write_text(BROKEN)
    told = ended_with_2(tmp_path, "--insecure", "--task", f"{place}:Broken")
    assert "the disk is not mounted" in told


def test_a_server_without_its_certificate_exits_with_2_and_a_sentence(tmp_path: Path) -> None:
    """Run by the interpreter, as users do."""
    flags = ["--state-dir", str(tmp_path / "state"), "--task", "t.py:T"]
    ended = subprocess.run(
        [sys.executable, "-m", "server", "--identity", str(tmp_path / "none"), *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert f"there is no cert.pem in {tmp_path / 'none'}" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_port_that_is_taken_exits_with_3_and_a_sentence(tmp_path: Path) -> None:
    """Of enrolment here, when the main one is bound already."""
    place = tmp_path / "small.py"
    place.write_text(SMALL)
    authority = Authority.create(tmp_path / "authority", hosts=["127.0.0.1"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--authority", str(authority.directory), "--address", "127.0.0.1:0"]
        flags += ["--enrolment-address", address, "--http-address", "", "--task", f"{place}:Small"]
        ended = run_server("--state-dir", str(tmp_path / "state"), *flags)
    assert ended.returncode == 3, ended.stderr
    assert f"cannot serve on {address}; is the port taken?" in ended.stderr


def ended_with_2(folder: Path, *flags: str) -> str:
    """What a server says that does not start."""
    ended = run_server("--state-dir", str(folder / "state"), *flags)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--max-tensors", "3"), "the model has 4 tensors and --max-tensors allows 3"),
        (("--max-update", "31"), "the smallest update of the model has 32 bytes"),
    ],
    ids=["tensors", "update"],
)
def test_a_model_beyond_a_limit_is_told_before_anything_is_written(
    tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    (tmp_path / "small.py").write_text(SMALL)
    task = ("--task", f"{tmp_path / 'small.py'}:Small", "--insecure", "--http-address", "")
    ended = run_server("--state-dir", str(tmp_path / "state"), *task, *flags)
    assert ended.returncode == 3, ended.stderr
    assert told in ended.stderr
    assert not list((tmp_path / "state").glob("state*"))


@pytest.mark.parametrize("module", ["server", "client"])
def test_what_a_process_writes_is_for_its_user_alone(tmp_path: Path, module: str) -> None:
    """Whatever the umask says, and in a directory that others could enter before."""
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o755)
    flags = ["--insecure", "--http-address", "", "--task", DIGITS, "--state-dir", str(state)]
    own = {
        "server": ["--address", "127.0.0.1:0"],
        "client": ["--server", "127.0.0.1:1", "--name", "c1", "--task-arg", "client=1"],
    }
    started = subprocess.Popen(
        [sys.executable, "-m", module, *flags, *own[module]],
        umask=0,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr is not None
    try:
        mark = "serving on" if module == "server" else "waiting for the server"
        told = [next(line for line in started.stderr if mark in line)]
        soft, hard = resource.prlimit(started.pid, resource.RLIMIT_NOFILE)
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (state, *state.rglob("*"))}
    finally:
        started.terminate()
        started.communicate(timeout=30)
    assert told
    assert started.returncode == 0
    assert len(modes) > (4 if module == "server" else 1)
    assert not {path: oct(mode) for path, mode in modes.items() if mode & 0o077}
    assert soft == hard or module == "client", "each connection takes a file handle"


def test_a_shared_directory_is_left_as_it_is_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o1777)
    LockedDirectory(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
    assert "other users may enter the state directory" in caplog.text
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


class Stage:
    """An authority whose key signs what a test wants, and an identity folder of the server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.maker = HandMadeAuthority()
        self.identity = folder / "identity"

    def fault(self, revocations: Path | None = None, authority: Path | None = None) -> str:
        with pytest.raises(IdentityError) as fault:
            open_identity(self.identity, revocations, authority)
        return str(fault.value)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "ca.pem"])
def test_a_missing_file_of_the_identity_is_named(stage: Stage, name: str) -> None:
    stage.maker.server(stage.identity)
    (stage.identity / name).unlink()
    assert f"there is no {name} in {stage.identity}" in stage.fault()


def test_a_servers_certificate_that_has_ended_is_named_with_its_date(stage: Stage) -> None:
    old = stage.maker.server(stage.identity, begins=days_from_now(-3), days=1).certificate
    told = stage.fault()
    assert f"in {stage.identity} expired on {old.not_valid_after_utc:%Y-%m-%d}" in told
    assert "`fednot certs issue server`" in told


def test_a_servers_certificate_of_the_future_is_named_with_its_date(stage: Stage) -> None:
    early = stage.maker.server(stage.identity, begins=days_from_now(2), days=1).certificate
    assert f"is valid from {early.not_valid_before_utc:%Y-%m-%d}" in stage.fault()


def test_a_clients_certificate_makes_no_server(stage: Stage) -> None:
    stage.maker.identity(stage.identity, Role.CLIENT, "c7")
    told = stage.fault()
    assert "is that of client c7" in told
    assert "`fednot certs issue server`" in told


def test_revocations_that_are_missing_or_anothers_are_named(stage: Stage) -> None:
    stage.maker.server(stage.identity)
    lists = stage.folder / "revoked.pem"
    assert f"{lists} cannot be read" in stage.fault(lists)
    lists.write_text("nothing of the kind")
    assert f"{lists} cannot be used" in stage.fault(lists)
    other = HandMadeAuthority("another")
    lists.write_bytes(certificates.revocation_list([], other.certificate, other.key))
    assert f"{lists} cannot be used" in stage.fault(lists)
    own = stage.maker
    lists.write_bytes(certificates.revocation_list([], own.certificate, own.key))
    assert open_identity(stage.identity, lists, None).subject.name == "server"


def test_a_key_that_others_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority.create(tmp_path / "authority", hosts=["127.0.0.1"])
    open_identity(authority.server_folder, None, None)
    assert "others than its owner" not in caplog.text
    (authority.server_folder / "key.pem").chmod(0o644)
    open_identity(authority.server_folder, None, None)
    assert f"can read or write {authority.server_folder}/key.pem (mode 0644)" in caplog.text


def test_an_authority_that_is_not_there_or_of_another_domain_is_named(stage: Stage) -> None:
    stage.maker.server(stage.identity)
    directory = stage.folder / "authority"
    assert f"there is no authority in {directory}" in stage.fault(authority=directory)
    Authority.create(directory, domain="elsewhere")
    told = stage.fault(authority=directory, revocations=empty(stage.folder))
    assert "'fednot'" in told
    assert "'elsewhere'" in told


def test_a_server_with_an_authority_starts_with_a_certificate_that_has_ended(
    tmp_path: Path,
) -> None:
    """It was down for too long; the authority signs a new one."""
    authority = Authority.create(tmp_path / "authority", hosts=["server.example", "127.0.0.1"])
    ended_server(authority)
    identity = open_identity(authority.server_folder, None, authority.directory)
    left = identity.certificate_expiries()["server"] - certificates.now().timestamp()
    assert left > 300 * 24 * 3600
    assert certificates.hosts_of(read_credentials(authority.server_folder).certificate) == (
        "server.example",
        "127.0.0.1",
    )


def ended_server(authority: Authority) -> None:
    keys = Keyring.read(authority.directory)
    key = certificates.new_key()
    leaf = certificates.leaf(
        Subject(Role.SERVER, "server"),
        key.public_key(),
        keys.current.certificate,
        keys.current.key,
        days=1,
        hosts=["server.example", "127.0.0.1"],
        begins=days_from_now(-3),
    )
    write_credentials(
        authority.server_folder,
        chain=certificates.pem_of([leaf]),
        trust=authority.trust_pem,
        key=certificates.key_pem(key),
    )


def empty(folder: Path) -> Path:
    path = folder / "empty.pem"
    path.write_bytes(b"")
    return path
