"""Results put side by side: a group for each dataset, model and partition, a row for each method.

Nothing is left out silently: what failed, is missing or cannot be read is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lab.results import Cell, Expected, Folder, Result

FIRST: Final = ("retrain", "fine-tune", "not")
"""The methods that stand first in a table, in this order."""

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Row:
    """One method, or variant, over seeds: what was measured, and why what was not."""

    name: str
    method: str
    results: Mapping[int, Result]
    failed: Mapping[int, str] = field(default_factory=dict)
    missing: tuple[int, ...] = ()


@dataclass(frozen=True)
class Group:
    """All methods on one dataset, model and partition; `reference` is the retraining by seed."""

    dataset: str
    model: str
    partition: str
    rows: tuple[Row, ...]
    reference: Mapping[int, Result]

    @property
    def title(self) -> str:
        """What names it in a report."""
        return f"{self.dataset} / {self.model} / {self.partition}"

    @property
    def results(self) -> list[Result]:
        """Everything that was measured in it."""
        return [result for row in self.rows for result in row.results.values()]


@dataclass(frozen=True)
class Trouble:
    """A cell that a table lacks, and why."""

    cell: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Study:
    """A folder's groups, and all that is wrong with it."""

    groups: tuple[Group, ...]
    troubles: tuple[Trouble, ...]


def study_of(folder: Folder) -> Study:
    """Groups what a folder holds."""
    troubles = [Trouble("?", "unreadable", reason) for reason in folder.unreadable]
    known: list[Expected | Result] = [*folder.expected, *folder.results]
    kept = _without_doubles(folder.results, troubles)
    groups = []
    for key in dict.fromkeys(_key(one.cell) for one in known):
        plans = [one for one in known if _key(one.cell) == key]
        groups.append(_group(key, plans, [one for one in kept if _key(one.cell) == key], troubles))
    return Study(tuple(groups), tuple(troubles))


def _key(cell: Cell) -> Key:
    return cell.dataset, cell.model, cell.partition


def _without_doubles(results: Iterable[Result], troubles: list[Trouble]) -> list[Result]:
    found: dict[tuple[Key, str, int], Result] = {}
    for result in results:
        first = found.setdefault((_key(result.cell), result.name, result.cell.seed), result)
        if first is not result:
            reason = f"the same label and seed as {first.id}, which is shown; give it another label"
            troubles.append(Trouble(result.id, "double", reason))
    return list(found.values())


def _group(
    key: Key,
    plans: Sequence[Expected | Result],
    results: Sequence[Result],
    troubles: list[Trouble],
) -> Group:
    seeds = sorted({one.cell.seed for one in plans})
    rows = []
    for name, method in dict.fromkeys((one.name, one.cell.method) for one in plans):
        mine = {r.cell.seed: r for r in results if (r.name, r.cell.method) == (name, method)}
        failed = {seed: result.failure for seed, result in mine.items() if result.failure}
        row = Row(
            name=name,
            method=method,
            results={seed: mine[seed] for seed in seeds if seed in mine and seed not in failed},
            failed=failed,
            missing=tuple(seed for seed in seeds if seed not in mine),
        )
        rows.append(row)
        troubles += _troubles(row, "/".join(key), mine)
    rows.sort(key=_order)
    return Group(*key, rows=tuple(rows), reference=_reference(rows))


def _troubles(row: Row, where: str, mine: Mapping[int, Result]) -> list[Trouble]:
    found = [Trouble(mine[seed].id, "failed", reason) for seed, reason in row.failed.items()]
    return found + [
        Trouble(f"{where}, {row.name}, seed {seed}", "missing", "no result; run the study again")
        for seed in row.missing
    ]


def _order(row: Row) -> int:
    """Rows of equal order keep that in which they were to be run."""
    known = row.method in FIRST
    return FIRST.index(row.method) if known else len(FIRST)


def _reference(rows: Sequence[Row]) -> Mapping[int, Result]:
    """The retraining that gaps are measured to: the one of that very name, else the first."""
    candidates = [row for row in rows if row.method == "retrain"]
    candidates.sort(key=lambda row: row.name.lower() != "retrain")
    return candidates[0].results if candidates else {}
