"""Limits on files and functions, names that say nothing, and bare excepts."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("fednot", "server", "client", "lab", "benchmarks", "examples", "tests", "deploy", ".ci")
FOLDERS += ("docs",)
GENERATED = ROOT / "fednot" / "v1"
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60
EMPTY_NAMES = {"utils", "common", "helpers", "base", "manager"}


def sources() -> list[Path]:
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if GENERATED not in path.parents]


def long_functions(text: str) -> list[str]:
    return [
        f"{node.name} in line {node.lineno}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]


def bare_excepts(text: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


def empty_names(path: Path) -> set[str]:
    return EMPTY_NAMES & {*path.parent.parts, path.stem}


def problems(path: Path, text: str) -> list[str]:
    length = len(text.splitlines())
    found = [f"{length} lines"] if length > MAX_FILE_LINES else []
    found += [f"long function {name}" for name in long_functions(text)]
    found += [f"bare except in line {line}" for line in bare_excepts(text)]
    found += [f"the name {name} says nothing" for name in sorted(empty_names(path))]
    return found


def test_every_source_keeps_the_limits() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): problems(path.relative_to(ROOT), path.read_text())
        for path in sources()
    }
    assert found
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


FUNCTION_OF_61 = "async def long():\n" + "    step()\n" * MAX_FUNCTION_LINES


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("server/rounds.py", "x = 1\n" * 451, "451 lines"),
        ("server/rounds.py", FUNCTION_OF_61, "long function long in line 1"),
        ("server/rounds.py", "try:\n    go()\nexcept:\n    pass\n", "bare except in line 3"),
        ("server/utils.py", "", "the name utils says nothing"),
        ("server/common/names.py", "", "the name common says nothing"),
    ],
)
def test_each_problem_is_seen(name: str, text: str, problem: str) -> None:
    assert problems(Path(name), text) == [problem]


@pytest.mark.parametrize("text", ["x = 1\n" * 450, FUNCTION_OF_61.replace("    step()\n", "", 1)])
def test_the_limits_themselves_are_allowed(text: str) -> None:
    assert problems(Path("server/rounds.py"), text) == []
