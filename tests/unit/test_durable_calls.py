"""Every durable call of the server has a name, a failpoint, and a row in the fault matrix."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from support.faults.places import (
    DURABLE,
    ROOT,
    SERVER,
    called,
    calls,
    durable_names,
    every_name,
    kinds,
    names_in,
)
from support.faults.scenarios import LATER, NOT_YET, SCENARIOS, cases

from server.state.commits import Commit

SYSTEM = {
    f"os.{name}"
    for name in ("fsync", "fdatasync", "rename", "replace", "link", "unlink", "remove", "truncate")
}
TREES = {"shutil.move", "shutil.rmtree", "shutil.copy", "shutil.copyfile", "shutil.copytree"}
METHODS = {"unlink", "rename", "hardlink_to", "rmdir", "write_text", "write_bytes", "truncate"}
TRANSACTIONS = {"commit", "begin"}
MODES = set("wax+")
EXCEPTIONS = {
    "server/failpoints.py: _trace.open('a', encoding='utf-8')": "the trace of a test",
    "server/state/stores/directory.py: temporary.unlink(missing_ok=True)": (
        "what no row names may be lost or stay; the next sweep removes it"
    ),
    "server/state/stores/directory.py: path.open('wb')": (
        "the file is synced under a name of its own before it gets that of a version"
    ),
    "server/state/stores/directory.py: file.truncate(written)": "as above",
    "server/state/database.py: transaction.commit()": "the one that stands at `commit.NAME`",
    "server/state/database.py: connection.begin()": "as above",
    "server/state/upgrading.py: transaction.commit()": "one that stands at `commit.schema`",
    "server/state/upgrading.py: connection.begin()": "as above, and one that only reads",
    "server/ledger/file.py: temporary.unlink(missing_ok=True)": (
        "an unfinished one has a name that nobody looks for"
    ),
    "server/maintenance/archive.py: (folder / PAGE).open('w', encoding='utf-8')": (
        "the folder is that of a backup only once it is renamed, and all in it is synced"
    ),
    "server/maintenance/backup.py: path.unlink(missing_ok=True)": "as above",
    "server/maintenance/backup.py: shutil.rmtree(partial, ignore_errors=True)": "as above",
    "server/maintenance/rows.py: engine.begin()": "as above",
    "server/maintenance/places.py: connection.begin()": "only reads",
    "server/state/ownership.py: connection.begin()": "takes the lock of a PostgreSQL, and reads",
}
"""Calls beside server/state/durable.py, each with the reason why it may stand where it does."""

SEVERAL_PLACES = {
    "TOKEN_MADE": "a token to enrol, and a link to the console, of which the audit alone is kept",
    "SCHEMA": "a new state, an upgraded one, and the mark of the server that owns a PostgreSQL",
}


def unnamed(text: str) -> list[str]:
    """The calls of a module that make something last, or that take away what did."""
    return [ast.unparse(call) for call in calls(ast.parse(text)) if lasts(call)]


def lasts(call: ast.Call) -> bool:
    name = called(call)
    method = name.rpartition(".")[2] if "." in name else ""
    if name.startswith("durable."):
        return False
    return (
        name in SYSTEM | TREES
        or method in METHODS
        or (method == "replace" and len(call.args) == 1 and not call.keywords)
        or (method in TRANSACTIONS and not call.args)
        or ((name == "open" or method == "open") and bool(MODES & mode_of(call, name)))
    )


def mode_of(call: ast.Call, name: str) -> set[str]:
    """The letters of the mode that a file is opened with."""
    place = 1 if name == "open" else 0
    given = [word.value for word in call.keywords if word.arg == "mode"] or call.args[place:][:1]
    mode = given[0] if given else None
    return (
        set(mode.value) if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else set()
    )


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def sources() -> list[Path]:
    return [path for path in sorted(SERVER.rglob("*.py")) if path != DURABLE]


def commits_in(text: str) -> list[str]:
    return [
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Commit"
    ]


def test_nothing_lasts_but_by_a_call_with_a_name() -> None:
    found = {f"{name_of(p)}: {call}" for p in sources() for call in unnamed(p.read_text())}
    assert found - set(EXCEPTIONS) == set(), "go through server/state/durable.py"
    assert set(EXCEPTIONS) - found == set(), "an exception that is needed no longer"


@pytest.mark.parametrize(
    "text",
    [
        "os.fsync(3)",
        "os.replace(a, b)",
        "path.replace(target)",
        "path.unlink(missing_ok=True)",
        "path.write_text('x')",
        "open(path, 'wb')",
        "path.open(mode='a')",
        "connection.commit()",
        "engine.begin()",
    ],
)
def test_a_call_without_a_name_is_seen(text: str) -> None:
    assert unnamed(text) == [ast.unparse(ast.parse(text).body[0])]


@pytest.mark.parametrize("text", ["'a'.replace('b', 'c')", "replace(row, number=1)", "open(path)"])
def test_what_leaves_nothing_behind_is_not_seen(text: str) -> None:
    assert unnamed(text) == []


def test_each_function_of_the_durable_module_stands_at_a_failpoint() -> None:
    tree = ast.parse(DURABLE.read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert functions == set(kinds(DURABLE.read_text()))
    assert kinds("def touch(path, name):\n    path.touch()") == {}


def test_each_durable_call_has_a_name_of_its_own() -> None:
    assert [name for name, times in Counter(durable_names()).items() if times > 1] == []


def test_names_are_read_where_they_are_written() -> None:
    found = kinds(DURABLE.read_text())
    text = "durable.sync(file, 'a')\ndurable.rename(b, c, name='d')\nwith around('put.e'): pass"
    assert list(names_in(text, found)) == ["sync.a", "rename.d", "put.e"]
    with pytest.raises(ValueError, match="does not write its name"):
        list(names_in("durable.sync(file, name_of(file))", found))


def test_each_transaction_is_written_in_one_place() -> None:
    used = Counter(name for path in sources() for name in commits_in(path.read_text()))
    assert {name for name, times in used.items() if times > 1} == set(SEVERAL_PLACES)
    unwritten = {f"commit.{Commit[name]}" for name in set(Commit.__members__) - set(used)}
    assert unwritten == set(NOT_YET), "a transaction that nobody writes"
    assert commits_in("write(Commit.A, x)\nwrite(Commit.A, y)") == ["A", "A"]


def test_each_transaction_is_named_by_the_enumeration() -> None:
    """A `write` takes a member, or passes on the one that it was given."""
    for path in sources():
        for call in calls(ast.parse(path.read_text())):
            if called(call).endswith(("database.write", "database.write_now")):
                assert ast.unparse(call.args[0]).startswith(("Commit.", "commit")), name_of(path)


def test_the_matrix_has_a_scenario_for_each_name() -> None:
    assert set(SCENARIOS) == set(every_name())
    assert set(LATER) <= set(SCENARIOS)


def test_the_matrix_stands_before_and_after_each_name() -> None:
    places = set(cases())
    names = set(every_name()) - set(NOT_YET)
    assert places >= {f"{side} {name}" for name in names for side in ("before", "after")}
    assert len(cases()) == len(places)
