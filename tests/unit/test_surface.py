"""What the product must not do with what comes from the network: run it, or name a file by it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("fednot", "server", "client")
RUNS_BYTES = frozenset(
    {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "code"}
)
RUNS_TEXT = frozenset({"eval", "exec", "compile", "__import__"})
LOADERS = frozenset({("torch", "load"), ("numpy", "load"), ("np", "load"), ("os", "system")})
LOADS_TASKS = frozenset({"fednot/task_loading.py", "fednot/loop.py", "fednot/__init__.py"})
"""Import by name: what the operator's command line names, and fednot's own names when used."""
BY_NAME = frozenset({"import_module", "spec_from_file_location", "run_path", "run_module"})
NAMES_A_SHELL = frozenset({"fednot/cli/completion.py"})
"""Says which shell is to complete; starts none."""
STARTS = frozenset({"fednot/demo/processes.py"})
NUMPY = frozenset({"fednot/data/npz.py", "server/verification/probe.py"})
"""Read .npz files of the operator with allow_pickle=False."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "fednot/v1" not in str(path):
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]


def faults(name: str, tree: ast.AST) -> Iterator[str]:
    """What in a module runs or loads what it is given."""
    yield from (f"imports {module}" for module in imported(tree) if module in RUNS_BYTES)
    if name not in STARTS and "subprocess" in set(imported(tree)):
        yield "starts processes"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in RUNS_TEXT:
            yield f"calls {called.id}"
        if isinstance(called, ast.Name | ast.Attribute) and name not in LOADS_TASKS:
            last = called.id if isinstance(called, ast.Name) else called.attr
            if last in BY_NAME:
                yield f"calls {last}"
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            pair = (called.value.id, called.attr)
            if pair in LOADERS and not (name in NUMPY and _without_pickle(node)):
                yield f"calls {'.'.join(pair)}"
        if name not in NAMES_A_SHELL and any(_is_true(word, "shell") for word in node.keywords):
            yield "starts a shell"


def _is_true(word: ast.keyword, name: str) -> bool:
    return word.arg == name and not (
        isinstance(word.value, ast.Constant) and word.value.value is False
    )


def _without_pickle(call: ast.Call) -> bool:
    return any(
        word.arg == "allow_pickle"
        and isinstance(word.value, ast.Constant)
        and word.value.value is False
        for word in call.keywords
    )


@pytest.mark.parametrize(
    ("name", "tree"), list(sources()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_nothing_runs_what_it_is_given(name: str, tree: ast.Module) -> None:
    assert not list(faults(name, tree))


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from yaml import load",
        "eval(x)",
        "exec(x)",
        "torch.load(path)",
        "np.load(path)",
        "importlib.import_module(x)",
        "run(x, shell=True)",
        "import subprocess",
        "os.system(x)",
    ],
)
def test_what_runs_what_it_is_given_is_seen(text: str) -> None:
    assert list(faults("server/x.py", ast.parse(text)))


class TestPaths:
    """The packages that serve calls make no path and open no file themselves.

    What a call names reaches the disk as a number, or as a sha256 that a version's row holds.
    """

    SERVING = ("server/services", "server/data_channel", "server/uploads", "server/limits")
    OPENS = frozenset({"open", "Path", "NamedTemporaryFile", "mkstemp", "makedirs", "unlink"})

    def test_what_serves_calls_opens_no_file(self) -> None:
        found = [
            f"{name}: {called}"
            for name, tree in sources()
            if name.startswith(self.SERVING)
            for called in self.opened(tree)
        ]
        assert not found

    def test_an_opened_file_is_seen(self) -> None:
        assert list(self.opened(ast.parse("open(x)"))) == ["open"]
        assert list(self.opened(ast.parse("Path(x).read_text()"))) == ["Path"]
        assert not list(self.opened(ast.parse("self._cohort.open(session)")))

    def opened(self, tree: ast.AST) -> Iterator[str]:
        for node in ast.walk(tree):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in self.OPENS:
                yield called.id
