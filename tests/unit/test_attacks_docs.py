"""docs/security.md tells of every attack of the suite, as the suite itself does."""

from __future__ import annotations

from pathlib import Path

from support.hostile.told import Attack, all_attacks, attack, is_one, table

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
SECTION = "## What attacks came to"
TOLD = "print it: PYTHONPATH=.:tests python -m support.hostile.told"


def rows(text: str) -> list[str]:
    """The lines of the section's table."""
    section = text.partition(SECTION)[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")]


def test_the_table_is_the_suite() -> None:
    found = all_attacks()
    assert len(found) > 30
    assert rows(TEXT) == table([each.cells for each in found]).splitlines(), TOLD


def test_no_title_stands_twice_and_no_cell_breaks_the_table() -> None:
    found = all_attacks()
    assert len({each.title for each in found}) == len(found)
    assert [each for each in found if any("|" in cell for cell in each.cells)] == []


def test_an_attack_is_told_and_marked() -> None:
    @attack("flattery", sent="kind words", outcome="nothing")
    def test_it() -> None: ...

    wanted = Attack("flattery", "kind words", "nothing", "test_attacks_docs.py::test_it")
    assert is_one(test_it)
    assert test_it.attack == wanted  # type: ignore[attr-defined]
    assert [mark.name for mark in test_it.pytestmark] == ["attacks"]  # type: ignore[attr-defined]
