"""docs/security.md claims only what a test holds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
HOLDS = ("claim", "cannot")
REFERENCE = re.compile(r"`([a-z]+/[a-z0-9_]+\.py): (test_[a-z0-9_]+)`")


def claims(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each row of each table of claims, with the tests that it names."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] in HOLDS:
            inside = True
        elif inside and not set(cells[0]) <= {"-"}:
            found.append((cells[0], REFERENCE.findall(cells[-1])))
    return found


def named_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


CLAIMS = claims(TEXT)


def test_there_are_claims() -> None:
    assert len(CLAIMS) >= 20


@pytest.mark.parametrize(("claim", "tests"), CLAIMS, ids=[claim[:60] for claim, _ in CLAIMS])
def test_each_claim_names_tests_that_exist(claim: str, tests: list[tuple[str, str]]) -> None:
    assert tests, f"no test holds: {claim}"
    for file, name in tests:
        path = ROOT / "tests" / file
        assert path.exists(), path
        assert name in named_in(path), f"{file} has no {name}"


def test_a_claim_without_a_test_is_seen() -> None:
    text = (
        "| cannot | held by |\n|---|---|\n| fly | `unit/test_x.py: test_y` |\n| swim | it does |\n"
    )
    assert claims(text) == [("fly", [("unit/test_x.py", "test_y")]), ("swim", [])]
