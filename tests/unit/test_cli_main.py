"""The command line itself: options, exit codes, verbs without a server, and its page in docs/."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
import typer
from typer.testing import CliRunner

import fednot
from fednot import model_file
from fednot.cli import options
from fednot.cli.demonstration import FEWEST_CLIENTS
from fednot.cli.exit_codes import MEANINGS, ExitCode
from fednot.cli.main import app
from fednot.layers import LayerMap
from fednot.secure_aggregation import terms

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
TASK = """
import torch
import fednot

class Tiny(fednot.Task):
    def __init__(self, width="4"):
        self.width = int(width)

    def build_model(self):
        layers = torch.nn.Linear(3, self.width), torch.nn.ReLU(), torch.nn.Linear(self.width, 2)
        return torch.nn.Sequential(*layers)

    def example_input(self):
        return torch.zeros(1, 3)

class Odd(Tiny):
    def first_layers(self, model):
        return ["nowhere"]
"""


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(app, arguments, env=environment, catch_exceptions=False)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        assert isinstance(port, int)
        return port


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "tiny.py"
    path.write_text(TASK)
    return str(path)


def test_version() -> None:
    assert run("--version").stdout == f"fednot {fednot.__version__}\n"


def test_a_caller_must_say_who_calls() -> None:
    result = run("status")
    assert result.exit_code == 2
    assert "There is no --identity (nor FEDNOT_IDENTITY)" in result.stderr
    assert "--insecure for a plaintext server on this machine" in result.stderr


def test_an_identity_and_plaintext_exclude_each_other(tmp_path: Path) -> None:
    for result in (
        run("status", "--insecure", "--identity", str(tmp_path)),
        run("status", FEDNOT_INSECURE="1", FEDNOT_IDENTITY=str(tmp_path)),
    ):
        assert result.exit_code == 2
        assert "exclude each other" in result.stderr


@pytest.mark.parametrize("address", ["10.0.0.5:50051", "fed.example.org:50051", "[fd00::1]:50051"])
def test_plaintext_leaves_this_machine_never(address: str) -> None:
    result = run("status", "--insecure", "--server", address)
    assert result.exit_code == 2
    assert f"{address} is not on this machine" in result.stderr


def test_an_unreachable_server_is_exit_code_4_and_names_the_address(free_port: int) -> None:
    result = run("status", FEDNOT_SERVER=f"127.0.0.1:{free_port}", FEDNOT_INSECURE="1")
    assert result.exit_code == 4
    assert f"127.0.0.1:{free_port} cannot be reached" in result.stderr
    assert "Check that fednot-server runs" in result.stderr


def test_a_slow_handshake_is_waited_for() -> None:
    """A port that accepts and stays silent uses up --timeout; it does not fail before."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = run("status", "--insecure", "--server", address, "--timeout", "0.6")
    assert result.exit_code == 4
    assert "did not answer within 0.6 s" in result.stderr


def test_a_server_of_another_kind_is_named_as_such() -> None:
    foreign = grpc.server(futures.ThreadPoolExecutor(1))
    port = foreign.add_insecure_port("127.0.0.1:0")
    foreign.start()
    result = run("status", "--insecure", "--server", f"127.0.0.1:{port}", "--format", "json")
    foreign.stop(None)
    assert result.exit_code == 3
    error = json.loads(result.stderr)
    assert error["reason"] == "UNIMPLEMENTED"
    assert "is no fednot server" in error["remedy"]
    assert "may be its enrolment port" in error["remedy"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["status", "--insecure", "--server", "no-port"],
        ["status", "--insecure", "--server", "localhost:99999"],
        ["status", "--insecure", "--server", "https://localhost:50051"],
        ["status", "--identity", "i", "--server", "https://localhost:50051"],
        ["status", "--insecure", "--server", "unix:"],
        ["status", "--timeout", "nan"],
        ["train"],
        ["train", "--rounds", "0"],
        ["train", "--rounds", "1", "--wait-timeout", "inf"],
        ["train", "--rounds", "1", "--quorum", "nan"],
        ["train", "--rounds", "1", "--insecure", "--set", "rate"],
        ["train", "--rounds", "1", "--insecure", "--set", "rate=nan"],
        ["train", "--rounds", "1", "--insecure", "--set", "rate=1", "--set", "rate=2"],
        ["unlearn", "client", "c1", "--method", "magic"],
        ["unlearn", "client", "c1", "--tolerance", "1.5"],
        ["model", "pull", "--insecure", "-o", "/nowhere/at/all"],
        ["clients", "--format", "yaml"],
    ],
)
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_addresses_of_several_kinds_are_taken(free_port: int) -> None:
    for address in (f"[::1]:{free_port}", f"localhost:{free_port}", "unix:/nowhere"):
        assert run("status", "--insecure", "--server", address).exit_code == 4


def test_seconds_keep_their_fraction() -> None:
    found = options.duration(0.25)
    assert found is not None
    assert found.ToMilliseconds() == 250
    assert options.duration(None) is None


def test_the_command_line_does_not_import_torch() -> None:
    program = "import sys, fednot.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_what_fednot_exports_can_be_imported() -> None:
    assert {name: getattr(fednot, name) for name in fednot.__all__}
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fednot.nonsense  # type: ignore[attr-defined]


def test_model_init_writes_a_model_file(task: str, tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    place = ["model", "init", "--task", f"{task}:Tiny", "-o", str(target)]
    result = run(*place, "--task-arg", "width=9", "--format", "json")
    assert result.exit_code == 0, result.output
    flat, manifest, layers = model_file.read(target)
    assert manifest["0.weight"].shape == (9, 3)
    assert LayerMap.from_json(layers).first == ("0.weight",)
    found = json.loads(result.stdout)
    assert found["manifest_digest"] == manifest.digest
    assert (found["first_layers"], found["layers_traced"]) == (["0.weight"], True)
    assert flat.numel() == manifest.nbytes


def test_model_init_does_not_overwrite_unless_forced(task: str, tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    place = ["model", "init", "--task", f"{task}:Tiny", "-o", str(target)]
    assert run(*place).exit_code == 0
    first = model_file.read(target)[0]
    assert run(*place).exit_code == 2
    assert run(*place, "--force", "--seed", "0").exit_code == 0
    assert model_file.read(target)[0].equal(first)
    assert run(*place, "--force", "--seed", "1").exit_code == 0
    assert not model_file.read(target)[0].equal(first)
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("place", "sentence"), [("Missing", "has no Missing that is a fednot.Task"), ("Odd", "nowhere")]
)
def test_model_init_says_what_is_wrong_with_a_task(
    task: str, tmp_path: Path, place: str, sentence: str
) -> None:
    result = run("model", "init", "--task", f"{task}:{place}", "-o", str(tmp_path / "m"))
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert not (tmp_path / "m").exists()


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("fednot.demo.run")
    monkeypatch.setitem(sys.modules, "fednot.demo.run", module)
    return module


def test_demo_passes_its_options(demo: ModuleType, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def run_demo(**arguments: Any) -> int:
        asked.update(arguments)
        print("accuracy 0.9")
        return 0

    demo.run_demo = run_demo  # type: ignore[attr-defined]
    result = run("demo", "--rounds", "3", "--out", str(tmp_path), "--format", "json")
    assert asked == {
        "seed": 0,
        "rounds": 3,
        "clients": 5,
        "assurance": "behaviour",
        "secure_aggregation": False,
        "out": tmp_path,
    }
    assert json.loads(result.stdout)["exit_code"] == 0
    assert "accuracy 0.9" in result.stderr
    assert run("demo").stdout == "accuracy 0.9\n"
    assert run("demo", "--secure-aggregation", "--clients", "4").exit_code == 0
    assert (asked["secure_aggregation"], asked["clients"]) == (True, 4)


def test_a_masked_demo_takes_three_clients_after_the_deletion(demo: ModuleType) -> None:
    result = run("demo", "--secure-aggregation", "--clients", "3")
    assert result.exit_code == 2
    assert "Give --clients 4 or more." in result.stderr
    assert FEWEST_CLIENTS == terms.FEWEST_CLIENTS


def test_demo_names_the_extra_that_is_missing(demo: ModuleType) -> None:
    def run_demo(**arguments: Any) -> int:
        raise ModuleNotFoundError("No module named 'mlxtend'", name="mlxtend.data")

    demo.run_demo = run_demo  # type: ignore[attr-defined]
    result = run("demo")
    assert result.exit_code == 1
    assert "pip install '.[demo]'" in result.stderr


def verbs(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        full = f"{path} {name}".strip()
        if hasattr(child, "commands"):
            if child.invoke_without_command:
                yield full, child
            yield from verbs(child, full)
        else:
            yield full, child


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("approve",), "The approval's id."),
        (("unlearn", "client"), "The client to forget."),
        (("certs", "revoke"), "Whose"),
    ],
)
def test_the_help_explains_arguments(words: tuple[str, ...], told: str) -> None:
    found = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    assert found.exit_code == 0
    panel = found.stdout.partition("Arguments")[2].partition("\u256f")[0]
    assert told in panel


@pytest.mark.parametrize("words", [("unlern",), ("certs", "isue")])
def test_a_mistyped_verb_is_answered_by_one_suggestion(words: tuple[str, ...]) -> None:
    found = CliRunner().invoke(app, [*words])
    assert found.exit_code == 2
    assert found.output.count("Did you mean") == 1


def test_every_verb_stands_under_a_heading() -> None:
    root = typer.main.get_command(app)
    headings = {
        name: getattr(command, "rich_help_panel", None)
        for name, command in root.commands.items()  # type: ignore[attr-defined]
    }
    assert [name for name, heading in headings.items() if not isinstance(heading, str)] == []
    told = CliRunner().invoke(app, ["--help"]).output
    assert all(heading in told for heading in headings.values())
    assert "Commands" not in told


def test_every_argument_has_a_sentence() -> None:
    root = typer.main.get_command(app)
    with root.make_context("fednot", ["approve"], resilient_parsing=True) as context:
        for name in root.list_commands(context):  # type: ignore[attr-defined]
            root.get_command(context, name)  # type: ignore[attr-defined]
    bare = [
        f"{name}: {each.name}"
        for name, command in verbs(root)
        for each in command.params
        if each.param_type_name == "argument" and not each.help
    ]
    assert bare == []


def test_the_page_names_every_verb() -> None:
    page = PAGE.read_text()
    found = dict(verbs(typer.main.get_command(app)))
    assert {"unlearn client", "clients", "clients readmit", "certs enroll"} <= set(found)
    for name in found:
        assert f"### `fednot {name}" in page, name


def test_the_page_has_every_exit_code() -> None:
    section = PAGE.read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", section, flags=re.MULTILINE))
    assert rows == {str(int(code)): meaning for code, meaning in MEANINGS.items()}
    assert set(MEANINGS) == set(ExitCode)
