"""The import arrows of the design, and what no module may touch, read from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fednot", "server", "client", "lab", "benchmarks", "examples", "tests", "docs")
MAY_IMPORT = {
    "fednot": {"fednot"},
    "server": {"fednot", "server"},
    "client": {"fednot", "client"},
    "lab": {"fednot", "server", "client", "lab"},
    "benchmarks": {"fednot", "server", "client", "benchmarks"},
    "examples": {"fednot", "examples"},
    "docs": {"fednot", "server", "client", "docs"},
    "tests": {"fednot", "server", "client", "lab", "benchmarks", "examples", "tests", "docs"},
}
VERBS = {"client/forget_command.py"}
"""Verbs for people, which the program of a daemon has beside the daemon."""
METRICS = ("server/metrics/*.py", "client/metrics.py")
PURE = ("aggregation/*.py", "phases.py", "stop_rule.py", "methods/*.py")
IMPURE = {"grpc", "sqlalchemy", "sqlite3", "time", "asyncio"}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
PICKLING_CALLS = {"torch.load", "torch.save"}
CLOCKS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.Module, module: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                package = module.split("/")[: -node.level]
                origin = ".".join([*package, origin] if origin else package)
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def calls(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def wrong_arrows(module: str, text: str) -> set[str]:
    found = {name.split(".")[0] for name in imports(ast.parse(text), module)}
    return found & set(PACKAGES) - MAY_IMPORT[module.split("/")[0]]


def of_the_command_line(module: str, text: str) -> set[str]:
    names = set(imports(ast.parse(text), module))
    return {name for name in names if f"{name}.".startswith("fednot.cli.")}


def beyond_stubs(module: str, text: str) -> set[str]:
    return {
        name
        for name in imports(ast.parse(text), module)
        if name.split(".")[0] == "fednot"
        and name.split(".")[:2] not in (["fednot"], ["fednot", "v1"])
    }


def metrics_outside(module: str, text: str) -> bool:
    roots = {name.split(".")[0] for name in imports(ast.parse(text), module)}
    return "prometheus_client" in roots and not any(fnmatch(module, each) for each in METRICS)


def impurities(module: str, text: str) -> set[str]:
    tree = ast.parse(text)
    found = {name.split(".")[0] for name in imports(tree, module)} & IMPURE
    return found | {call for call in calls(tree) if call.endswith(tuple(CLOCKS))}


def pickling(module: str, text: str) -> set[str]:
    tree = ast.parse(text)
    names = set(imports(tree, module))
    found = {name for name in names if name.split(".")[0] in PICKLES} | names & PICKLING_CALLS
    return found | set(calls(tree)) & PICKLING_CALLS


def swallows_cancellation(text: str) -> bool:
    return "asyncio.wait_for" in set(calls(ast.parse(text)))


def pure_sources() -> list[Path]:
    """The pure modules and every module of the project that they import, however indirectly."""
    left = [path for pattern in PURE for path in (ROOT / "server").glob(pattern)]
    found: set[Path] = set()
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += imported_sources(path)
    return sorted(found)


def imported_sources(path: Path) -> list[Path]:
    """The project's modules that a module imports."""
    names = set(imports(ast.parse(path.read_text()), name_of(path)))
    files = {(ROOT / name.replace(".", "/")).with_suffix(".py") for name in names}
    return sorted(file for file in files if file.is_file())


@pytest.mark.parametrize("package", ["server", "client"])
def test_the_daemons_know_nothing_of_the_command_line(package: str) -> None:
    paths = [path for path in sources(package) if name_of(path) not in VERBS]
    found = {name_of(path): of_the_command_line(name_of(path), path.read_text()) for path in paths}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package: str) -> None:
    wrong = {
        name_of(path): wrong_arrows(name_of(path), path.read_text()) for path in sources(package)
    }
    assert {name: roots for name, roots in wrong.items() if roots} == {}


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("fednot/wire.py", "import server.state"),
        ("fednot/wire.py", "def late():\n    from client import trainer"),
        ("server/rounds.py", "from client.trainer import train"),
        ("client/trainer.py", "import server"),
        ("server/rounds.py", "import lab.study"),
        ("examples/digits.py", "from tests import tasks"),
    ],
)
def test_a_wrong_arrow_is_seen(module: str, text: str) -> None:
    assert wrong_arrows(module, text)


def test_relative_imports_are_resolved() -> None:
    tree = ast.parse("from ..state import store\nfrom . import names")
    found = set(imports(tree, "server/methods/negation.py"))
    assert found == {
        "server.state",
        "server.state.store",
        "server.methods",
        "server.methods.names",
    }


def test_the_stubs_import_only_stubs() -> None:
    found = {
        name_of(path): beyond_stubs(name_of(path), path.read_text())
        for path in sources("fednot/v1")
    }
    assert found
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
    assert beyond_stubs("fednot/v1/bad_pb2.py", "from fednot import wire")


def test_prometheus_is_imported_only_by_the_metrics_modules() -> None:
    product = [path for package in PACKAGES if package != "tests" for path in sources(package)]
    assert [name_of(p) for p in product if metrics_outside(name_of(p), p.read_text())] == []


def test_prometheus_elsewhere_is_seen() -> None:
    assert metrics_outside("server/rounds.py", "from prometheus_client import Counter")
    assert not metrics_outside("server/metrics/fleet.py", "from prometheus_client import Counter")


def test_opentelemetry_is_imported_only_by_the_tracing_module() -> None:
    product = [path for package in PACKAGES if package != "tests" for path in sources(package)]
    found = [name_of(path) for path in product if "opentelemetry" in path.read_text()]
    assert found == ["fednot/tracing.py"]


def test_arithmetic_knows_no_network_database_or_clock() -> None:
    found = {name_of(path): impurities(name_of(path), path.read_text()) for path in pure_sources()}
    assert {"server/aggregation/rules.py", "fednot/errors.py", "fednot/tensors.py"} <= set(found)
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import grpc.aio",
        "from sqlalchemy import select",
        "import time",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import UTC, datetime\nstamp = datetime.now(UTC)",
    ],
)
def test_impure_arithmetic_is_seen(text: str) -> None:
    assert impurities("server/stop_rule.py", text)


def test_no_wait_can_swallow_a_cancellation() -> None:
    """asyncio.wait_for of Python 3.11 can: a deletion would wait for its round's deadline."""
    product = [path for package in ("fednot", "server", "client") for path in sources(package)]
    assert [name_of(path) for path in product if swallows_cancellation(path.read_text())] == []
    assert swallows_cancellation("import asyncio\nasyncio.wait_for(answer, 3)")


def test_nothing_pickles() -> None:
    every = [path for package in PACKAGES for path in sources(package)]
    found = {name_of(path): pickling(name_of(path), path.read_text()) for path in every}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from torch import load", "import torch\ntorch.load('model.pt')"],
)
def test_pickling_is_seen(text: str) -> None:
    assert pickling("server/global_model.py", text)
