"""What each attack is and what comes of it: the rows of the table in docs/security.md."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

FOLDER: Final = Path(__file__).resolve().parents[2] / "attacks"
HEADINGS: Final = ("attack", "what is sent", "what comes of it", "test")
T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Attack:
    """One row; `test` is FILE::FUNCTION below tests/attacks, which holds it."""

    title: str
    sent: str
    outcome: str
    test: str

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """What the row shows, in the order of HEADINGS."""
        return self.title, self.sent, self.outcome, f"`{self.test}`"


def attack(title: str, *, sent: str, outcome: str) -> Callable[[T], T]:
    """Marks a test as one of an attack, in which `outcome` is asserted."""

    def marked(test: T) -> T:
        where = f"{test.__module__.rpartition('.')[2]}.py::{test.__name__}"
        told = Attack(title, sent, outcome, where)
        test.attack = told  # type: ignore[attr-defined]
        found: T = pytest.mark.attacks(test)
        return found

    return marked


def all_attacks() -> list[Attack]:
    """Every attack of the suite, by file and then in the order in which it is written there."""
    modules = [
        importlib.import_module(f"attacks.{path.stem}") for path in sorted(FOLDER.glob("test_*.py"))
    ]
    found = [test.attack for module in modules for test in vars(module).values() if is_one(test)]
    return list(dict.fromkeys(found))


def is_one(test: object) -> bool:
    """Whether something of a module is the test of an attack."""
    return isinstance(getattr(test, "attack", None), Attack)


def table(rows: list[tuple[str, ...]], headings: tuple[str, ...] = HEADINGS) -> str:
    """A table in Markdown."""
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    from support.hostile import told  # the module of which the tests' attacks are

    print(told.table([found.cells for found in told.all_attacks()]))
