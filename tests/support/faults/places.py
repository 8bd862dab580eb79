"""Where the server makes something last, read from its sources: the rows of the fault matrix."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from server.state.commits import Commit

ROOT = Path(__file__).resolve().parents[3]
SERVER = ROOT / "server"
DURABLE = SERVER / "state" / "durable.py"
SIDES = ("before", "after")


def called(node: ast.Call) -> str:
    """What a call calls, as it is written."""
    return ast.unparse(node.func)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def kinds(text: str) -> dict[str, str]:
    """The functions of a durable module with what stands before the names of their places.

    One that stands at no failpoint itself has the kind of the one that it calls.
    """
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    found = {node.name: kind for node in functions if (kind := _kind(node))}
    for node in functions:
        passed_to = [found[called(call)] for call in calls(node) if called(call) in found]
        if node.name not in found and passed_to:
            found[node.name] = passed_to[0]
    return found


def _kind(function: ast.FunctionDef) -> str:
    for call in calls(function):
        if called(call) == "around" and isinstance(call.args[0], ast.JoinedStr):
            first = call.args[0].values[0]
            if isinstance(first, ast.Constant):
                return str(first.value)
    return ""


def names_in(text: str, kinds_of: dict[str, str]) -> Iterator[str]:
    """The places at which a module makes something last.

    Raises ValueError for a call whose name is not written at the call, where nobody could find it.
    """
    for call in calls(ast.parse(text)):
        callee = called(call)
        if callee.startswith("durable.") and callee.removeprefix("durable.") in kinds_of:
            yield kinds_of[callee.removeprefix("durable.")] + _written_name(call)
        elif callee in ("around", "failpoints.around") and not _is_of_a_commit(call):
            yield _written_name(call)


def _is_of_a_commit(call: ast.Call) -> bool:
    return ast.unparse(call.args[0]).startswith("f'commit.{")


def _written_name(call: ast.Call) -> str:
    given = next((word.value for word in call.keywords if word.arg == "name"), None)
    name = given or call.args[-1]
    if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
        raise ValueError(f"line {call.lineno}: {ast.unparse(call)} does not write its name")
    return name.value


def durable_names() -> list[str]:
    """Every call beside the database that makes something last, as often as it stands there."""
    kinds_of = kinds(DURABLE.read_text())
    others = [path for path in sorted(SERVER.rglob("*.py")) if path != DURABLE]
    return [name for path in others for name in names_in(path.read_text(), kinds_of)]


def every_name() -> list[str]:
    """The names of every place, those of transactions first."""
    return [*(f"commit.{commit}" for commit in Commit), *sorted(set(durable_names()))]
