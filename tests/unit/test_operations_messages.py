"""Each message of docs/operations.md is one that the code says, so that it can be searched for."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

from support.pages import ROOT

FOLDERS = ("fednot", "server", "client")
PLACE = re.compile(r"%[sdg]|%\.1f|\0")
ANY = "…"


def literals(node: ast.AST) -> Iterator[str]:
    """The strings of a module; what an f-string fills in is one zero byte."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values
        )
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from literals(child)


@functools.cache
def said() -> list[str]:
    """Every string of the product, with ANY for what it fills in."""
    return [
        PLACE.sub(ANY, text)
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "v1" not in path.parts
        for text in literals(ast.parse(path.read_text(encoding="utf-8")))
    ]


def messages(page: str) -> list[str]:
    """The first cells of the section's tables, without their backquotes."""
    section = page.partition("\n## Messages\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE)


def missing(named: list[str], texts: list[str]) -> list[str]:
    """Messages of which no string has the whole, from its first letter on."""
    return [each for each in named if not any(_is_said(each, text) for text in texts)]


def _is_said(message: str, text: str) -> bool:
    return text.startswith(message.removesuffix(ANY).rstrip(": "))


def test_every_message_is_said_by_the_code() -> None:
    named = messages((ROOT / "docs" / "operations.md").read_text(encoding="utf-8"))
    assert len(named) > 25
    assert missing(named, said()) == []


def test_a_message_that_nobody_says_is_found() -> None:
    page = "\n## Messages\n| message | do |\n|---|---|\n| `waiting for godot` | Nothing. |\n"
    assert missing(messages(page), said()) == ["waiting for godot"]
