"""The client's settings and what is refused before the first call."""

from pathlib import Path

import pytest

from client.settings import PREFIX, PROGRAM, ClientSettings
from client.startup import StartError, prepare
from fednot.settings import SettingsError, load

TASK = """
import fednot
from torch import nn
class Empty(fednot.Task):
    def build_model(self):
        return nn.Linear(2, 2)
    def train_data(self):
        return []
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
    found = settings("--name", "c7", "--task", "t.py:T")
    assert (found.server, found.http_address) == ("127.0.0.1:50051", "127.0.0.1:9465")
    assert (found.device, found.insecure, found.torch_threads) == ("auto", False, 1)
    assert (found.state_dir, found.poll_wait) == (Path(".fednot-client"), 20.0)


def test_the_environment_and_flags() -> None:
    found = settings("--insecure", NAME="c7", TASK="t.py:T", TASK_ARG="a=1 b=2", HTTP_ADDRESS="")
    assert (found.insecure, found.task_arg, found.http_address) == (True, ("a=1", "b=2"), "")


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "é", "a" * 64, "a/b", "a\n"])
def test_a_bad_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(SettingsError, match="Use 1 to 63 of a-z"):
        settings("--task", "t.py:T", f"--name={name}")


@pytest.mark.parametrize("name", ["a", "7", "hospital-1.north_east", "a" * 63])
def test_a_good_name_is_taken(name: str) -> None:
    assert settings("--task", "t.py:T", "--name", name).name == name


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("server", ""),
        ("server", "localhost"),
        ("server", "h:99999"),
        ("http-address", "9465"),
        ("torch-threads", "0"),
        ("poll-wait", "31"),
        ("log-level", "loud"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(flag: str, value: str) -> None:
    with pytest.raises(SettingsError, match=flag.replace("-", "_")):
        settings("--name", "c7", "--task", "t.py:T", f"--{flag}={value}")


def test_plaintext_is_refused_unless_asked_for(tmp_path: Path) -> None:
    plain = settings("--name", "c7", "--task", "t.py:T", "--state-dir", str(tmp_path / "s"))
    with pytest.raises(StartError, match="--insecure"):
        prepare(plain)
    assert not (tmp_path / "s").exists()


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
