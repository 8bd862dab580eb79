"""Each row of the table of what survives what names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[str]:
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text.partition("## What survives what")[2].partition("\n## ")[0]
    return [line for line in table.splitlines() if line.startswith("| ")][1:]


def functions_of(path: Path) -> set[str]:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {
        node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions)
    }


def test_every_row_names_a_test_that_there_is() -> None:
    assert len(rows()) > 15
    for row in rows():
        named = NAMED.findall(row)
        assert named, row
        for path, test in named:
            assert test in functions_of(ROOT / path), (path, test)
