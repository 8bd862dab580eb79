"""The client's settings and what is refused before the first call."""

import json
from pathlib import Path

import pytest
from support.handmade_authority import HandMadeAuthority, days_from_now

from client.settings import PREFIX, PROGRAM, ClientSettings
from client.startup import Prepared, StartError, prepare
from fednot.identity.replacement import REPLACEMENT
from fednot.identity.subject import Role
from fednot.settings import SettingsError, load

TASK = """
import fednot
from torch import nn
class Empty(fednot.Task):
    def build_model(self):
        return nn.Linear(2, 2)
    def train_data(self):
        return []
class Full(Empty):
    def train_data(self):
        return [(0, 0)]
"""


def settings(*arguments: str, **environment: str) -> ClientSettings:
    return load(
        ClientSettings,
        program=PROGRAM,
        prefix=PREFIX,
        arguments=arguments,
        environment={f"{PREFIX}{key}": value for key, value in environment.items()},
    )


def test_the_defaults() -> None:
    found = settings("--identity", "i", "--task", "t.py:T")
    assert (found.name, found.identity) == (None, Path("i"))
    assert (found.server, found.http_address) == ("127.0.0.1:50051", "127.0.0.1:9465")
    assert (found.device, found.insecure, found.torch_threads) == ("auto", False, 1)
    assert (found.state_dir, found.poll_wait) == (Path(".fednot-client"), 20.0)


def test_the_environment_and_flags() -> None:
    found = settings("--insecure", NAME="c7", TASK="t.py:T", TASK_ARG="a=1 b=2", HTTP_ADDRESS="")
    assert (found.insecure, found.task_arg, found.http_address) == (True, ("a=1", "b=2"), "")


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "é", "a" * 64, "a/b", "a\n"])
def test_a_bad_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(SettingsError, match="Use 1 to 63 of a-z"):
        settings("--insecure", "--task", "t.py:T", f"--name={name}")


@pytest.mark.parametrize("name", ["a", "7", "hospital-1.north_east", "a" * 63])
def test_a_good_name_is_taken(name: str) -> None:
    assert settings("--insecure", "--task", "t.py:T", "--name", name).name == name


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("server", ""),
        ("server", "localhost"),
        ("server", "h:99999"),
        ("server", "https://h:50051"),
        ("http-address", "9465"),
        ("torch-threads", "0"),
        ("poll-wait", "31"),
        ("log-level", "loud"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(flag: str, value: str) -> None:
    with pytest.raises(SettingsError, match=flag):
        settings("--identity", "i", "--task", "t.py:T", f"--{flag}={value}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --identity FOLDER"),
        (("--insecure", "--identity", "i"), "exclude each other"),
        (("--insecure",), "give --name"),
        (("--insecure", "--name", "c7", "--server", "fed.example.org:1"), "not on this machine"),
        (("--insecure", "--name", "c7", "--server", "10.0.0.5:50051"), "not on this machine"),
    ],
)
def test_who_dials_must_be_clear(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings("--task", "t.py:T", *arguments)


@pytest.mark.parametrize("server", ["127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1"])
def test_plaintext_stays_on_this_machine(server: str) -> None:
    found = settings("--insecure", "--name", "c7", "--task", "t.py:T", "--server", server)
    assert found.server == server


def prepared_with(identity: Path, *more: str) -> Prepared:
    task = identity.parent / "task.py"
    task.write_text(TASK)
    state = identity.parent / "state"
    arguments = ["--task", f"{task}:Full", "--state-dir", f"{state}", "--http-address", ""]
    return prepare(settings(*arguments, "--identity", str(identity), *more))


@pytest.mark.parametrize("more", [(), ("--name", "c7")])
def test_the_name_is_the_certificates(tmp_path: Path, more: tuple[str, ...]) -> None:
    HandMadeAuthority().identity(tmp_path / "i", name="c7")
    found = prepared_with(tmp_path / "i", *more)
    assert found.join_request().client == "c7"
    found.close()


def test_an_identity_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    authority = HandMadeAuthority()
    with pytest.raises(StartError, match=r"no cert.pem in .*/i, which is not a folder"):
        prepared_with(tmp_path / "i")
    authority.identity(tmp_path / "o", Role.OPERATOR, "olga")
    with pytest.raises(StartError, match=r"o/cert.pem is the certificate of operator olga"):
        prepared_with(tmp_path / "o")
    authority.identity(tmp_path / "c", name="c7")
    with pytest.raises(StartError, match=r"--name c8 differs .* that of client c7"):
        prepared_with(tmp_path / "c", "--name", "c8")
    (tmp_path / "c" / "key.pem").write_bytes((tmp_path / "o" / "key.pem").read_bytes())
    with pytest.raises(StartError, match=r"c/key.pem is not the key of .*c/cert.pem"):
        prepared_with(tmp_path / "c")
    assert not (tmp_path / "state").exists()


def test_an_expired_certificate_is_told_and_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = HandMadeAuthority().identity(tmp_path / "i", begins=days_from_now(-3), days=1)
    prepared_with(tmp_path / "i").close()
    ended = old.certificate.not_valid_after_utc
    assert f"{tmp_path}/i/cert.pem expired on {ended:%Y-%m-%d}" in caplog.text
    assert f"waits for new files in {tmp_path}/i" in caplog.text


def test_a_key_that_others_can_read_is_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    HandMadeAuthority().identity(tmp_path / "i")
    prepared_with(tmp_path / "i").close()
    assert "others than its owner" not in caplog.text
    (tmp_path / "i" / "key.pem").chmod(0o644)
    prepared_with(tmp_path / "i").close()
    assert caplog.text.count(f"can read or write {tmp_path}/i/key.pem (mode 0644)") == 1


def test_an_identity_that_is_a_file_is_told_with_its_folder(tmp_path: Path) -> None:
    HandMadeAuthority().identity(tmp_path / "i")
    with pytest.raises(StartError) as told:
        prepared_with(tmp_path / "i" / "cert.pem")
    place = tmp_path / "i"
    assert str(told.value) == f"{place}/cert.pem is a file. Give the folder that it is in: {place}"


def test_a_replacement_that_was_cut_off_is_finished_at_the_start(tmp_path: Path) -> None:
    """The process died with the new key in place and the old certificate beside it."""
    authority = HandMadeAuthority()
    new = authority.identity(tmp_path / "new", name="c7")
    authority.identity(tmp_path / "i", name="c7")
    content = {"chain": new.chain, "trust": new.trust, "key": new.private_key}
    text = json.dumps({key: value.decode() for key, value in content.items()})
    (tmp_path / "i" / REPLACEMENT).write_text(text)
    (tmp_path / "i" / "key.pem").write_bytes(new.private_key)
    found = prepared_with(tmp_path / "i")
    found.close()
    assert found.identity is not None
    assert found.identity.current.certificate == new.certificate
    assert not (tmp_path / "i" / REPLACEMENT).exists()


def test_a_state_directory_keeps_its_name_over_tls_too(tmp_path: Path) -> None:
    authority = HandMadeAuthority()
    authority.identity(tmp_path / "i", name="c7")
    found = prepared_with(tmp_path / "i")
    found.state.remember(found.name)
    found.close()
    authority.identity(tmp_path / "i", name="c8")
    with pytest.raises(StartError, match="belongs to the client 'c7', not 'c8'"):
        prepared_with(tmp_path / "i")


@pytest.mark.parametrize(
    ("task", "more", "message"),
    [
        ("none.py:T", (), "does not exist"),
        ("task.py:Empty", (), "is empty"),
        ("task.py:Empty", ("--task-arg", "x=1"), "does not take"),
        ("task.py:Empty", ("--device", "cuda:99"), "cuda:99 is not there"),
    ],
)
def test_a_client_that_cannot_work_says_why_and_frees_its_state(
    tmp_path: Path, task: str, more: tuple[str, ...], message: str
) -> None:
    (tmp_path / "task.py").write_text(TASK)
    place = f"{tmp_path}/{task}"
    arguments = ["--name", "c7", "--task", place, "--state-dir", f"{tmp_path}/s", "--insecure"]
    for _ in range(2):
        with pytest.raises(StartError, match=message):
            prepare(settings(*arguments, *more))
