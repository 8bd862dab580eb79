"""What stands in the pages' blocks of code parses, and names what there is."""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError
from support.command_lines import fault_of, simple_commands
from support.pages import ROOT, SHELLS, Fence, commands, fences, pages

from client.settings import ClientSettings
from server.settings import ServerSettings

OURS = ("fednot", "server", "client", "lab")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
NAMED_TARGET = re.compile(r"`make ([a-z][a-z-]*)")
Named = tuple[str, Fence]


def blocks(*languages: str) -> list[Named]:
    return [
        (f"{page.relative_to(ROOT)}:{fence.line}", fence)
        for page in pages()
        for fence in fences(page.read_text(encoding="utf-8"))
        if fence.language in languages
    ]


def faults(found: list[Named], check: Any) -> list[str]:
    return [f"{place}: {fault}" for place, fence in found for fault in check(fence.text)]


def of_python(text: str) -> Iterator[str]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield str(error)
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name for alias in node.names if (name := missing(alias.name)))
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in map(missing, names) if name)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("fednot."):
            name = ast.unparse(node)
            if re.fullmatch(r"[\w.]+", name) and missing(name):
                yield missing(name)


def missing(dotted: str) -> str:
    """Says that a module of this project, or a name in it, is not there."""
    first, *rest = dotted.split(".")
    if first not in OURS:
        return ""
    found, path = importlib.import_module(first), first
    for name in rest:
        path = f"{path}.{name}"
        try:
            found = getattr(found, name) if hasattr(found, name) else importlib.import_module(path)
        except ImportError:
            return f"there is no {dotted}"
    return ""


def of_json(text: str) -> Iterator[str]:
    try:
        json.loads(text)
    except ValueError as whole:
        for line in text.splitlines():
            try:
                json.loads(line or "null")
            except ValueError:
                yield str(whole)
                return


def of_toml(text: str) -> Iterator[str]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        yield str(error)
        return
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    every = [set(settings_faults(kind, plain)) for kind in (ServerSettings, ClientSettings)]
    yield from min(every, key=len)


def settings_faults(kind: Any, table: dict[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        field = kind.model_fields.get(key.replace("-", "_"))
        if field is None:
            yield f"{key} is no setting"
            continue
        try:
            TypeAdapter(Annotated[field.annotation, field]).validate_python(value)
        except ValidationError as error:
            yield f"{key}: {error}"


def of_yaml(text: str) -> Iterator[str]:
    yaml = pytest.importorskip("yaml", reason="PyYAML (extra dev) reads blocks of YAML")
    try:
        list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        yield str(error)


def of_shell(text: str) -> Iterator[str]:
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    for line in commands(text):
        if not re.search(r"\b(fednot|make)\b", line):
            continue
        try:
            found = list(simple_commands(line))
        except ValueError:  # a quotation that goes on in the next line
            continue
        for words in found:
            fault = fault_of(words)
            if fault:
                yield f"{' '.join(words)}: {fault}"
            if words[0] == "make" and words[1:] and not {*words[1:2]} & targets:
                yield f"no target {words[1]}"


CHECKS = [
    (("python", "py"), of_python),
    (("json",), of_json),
    (("toml",), of_toml),
    (("yaml", "yml"), of_yaml),
    (tuple(sorted(SHELLS)), of_shell),
]


@pytest.mark.parametrize(("languages", "check"), CHECKS, ids=[row[0][-1] for row in CHECKS])
def test_every_block_is_right(languages: tuple[str, ...], check: Any) -> None:
    assert faults(blocks(*languages), check) == []


def test_blocks_are_found_at_all() -> None:
    assert len(blocks("python")) >= 5
    assert len(blocks(*SHELLS)) >= 30


def test_every_target_that_prose_names_is_there() -> None:
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    named = {
        (page.name, target)
        for page in pages()
        for target in NAMED_TARGET.findall(page.read_text(encoding="utf-8"))
    }
    assert named
    assert {each for each in named if each[1] not in targets} == set()


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (of_python, "def x(:"),
        (of_python, "import fednot.nothing"),
        (of_python, "from fednot.data import Nothing"),
        (of_python, "fednot.loop.leave(model)"),
        (of_json, '{"a": }'),
        (of_toml, "a = "),
        (of_toml, "min_client = 3"),
        (of_toml, "min-clients = 0"),
        (of_yaml, "a: [1"),
        (of_shell, "fednot statuss"),
        (of_shell, "fednot status --nonsense"),
        (of_shell, "fednot clients --format yaml"),
        (of_shell, "fednot train && true"),
        (of_shell, "FEDNOT_SERVER=a:1 fednot unlearn client c1 --assurance shallow | cat"),
        (of_shell, "fednot audit verify --hed x"),
        (of_shell, "fednot-server --authority a --task t.py:T --min-cleints 3"),
        (of_shell, "fednot-server ... --min-cleints 3"),
        (of_shell, "fednot-server backup --state-dir s"),
        (of_shell, "fednot-client --identity i --task t.py:T --device gpu"),
        (of_shell, "fednot-client forget --ids - \\\n  --server a:1 --idz x"),
        (of_shell, "make everything"),
    ],
)
def test_each_fault_is_seen(check: Any, text: str) -> None:
    assert list(check(text))


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (of_python, "from fednot.data import ImageFolder\nimport somebody_elses\nfednot.loop.join"),
        (of_json, '{"a": 1}\n{"a": 2}\n'),
        (of_toml, 'min-clients = 3\naddress = "0.0.0.0:50051"\n[table]\nother = 1'),
        (of_shell, "fednot train --rounds 3 --identity i  # a comment --nonsense"),
        (of_shell, "printf 'a\\n' | fednot-client forget --ids - --identity i >/dev/null"),
        (of_shell, "fednot-server ... --min-clients 3"),
        (of_shell, "$ make test ARGS='-m long'"),
    ],
)
def test_what_is_right_passes(check: Any, text: str) -> None:
    assert list(check(text)) == []
