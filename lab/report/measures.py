"""All figures of a group, method by method, each as mean and deviation over seeds.

Gaps, ratios and advantages are taken against the retraining of the same seed before the mean is
formed, so that what a seed's split makes easy or hard does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lab.relearning import Relearning, advantage
from lab.report import costs, depth
from lab.report.groups import Group, Row
from lab.results import Figures, Result
from lab.scores import Spread, average_gap, gaps

SCORES: Final = ("retain", "forget", "test", "mia", "mia_confidence")
TOTALS: Final = (*costs.PAID, "storage_bytes", "history_bytes")

Spreads = dict[str, Spread]


@dataclass(frozen=True)
class Undone:
    """One model that verification looked at, over seeds."""

    model: str
    rounds: int
    figures: Spreads


@dataclass(frozen=True)
class Step:
    """One deletion of several in a row; backdoors are shares of triggered images.

    `own` is that of the client just deleted, `earlier` the worst of those deleted before, `others`
    the mean of those that stay, whose backdoors a deletion of another need not touch.
    """

    number: int
    methods: tuple[str, ...]
    scores: Spreads
    own: Spread | None
    earlier: Spread | None
    others: Spread | None


@dataclass(frozen=True)
class Measured:
    """One method. `reached` is in how many seeds it was once as good on test data as retraining."""

    name: str
    method: str
    seeds: tuple[int, ...]
    failed: tuple[int, ...]
    missing: tuple[int, ...]
    scores: Spreads
    gaps: Spreads
    average_gap: Spread | None
    costs: Spreads
    reached: int
    to_target: Spreads
    ratios: Spreads
    gap_at_target: Spread | None
    backdoor: Spreads
    behaviour: Mapping[str, int]
    depth: Mapping[str, int]
    looked_at: tuple[Undone, ...]
    worst_undone: Spread | None
    worst_kind: str
    relearning: Spreads
    deletions: tuple[Step, ...]

    @property
    def passes(self) -> bool | None:
        """Whether both verdicts are "pass" in every seed, False if one fails; else None."""
        found = {*self.behaviour, *self.depth}
        if "fail" in found:
            return False
        return True if found == {"pass"} else None

    @property
    def always_reached(self) -> bool:
        """Whether it was as good as retraining on test data in every seed that was measured."""
        return bool(self.seeds) and self.reached == len(self.seeds)


def measure(group: Group, row: Row, margin: float) -> Measured:
    """All figures of one method."""
    found = [row.results[seed] for seed in sorted(row.results)]
    pairs = [(one, group.reference[s]) for one in found if (s := one.cell.seed) in group.reference]
    compared = [_compared(one, retrain, margin) for one, retrain in pairs]
    arrived = [one for one in compared if one is not None]
    effects = [depth.worst(one, group.reference.get(one.cell.seed)) for one in found]
    known = [effect for effect in effects if effect is not None]
    return Measured(
        name=row.name,
        method=row.method,
        seeds=tuple(one.cell.seed for one in found),
        failed=tuple(sorted(row.failed)),
        missing=row.missing,
        scores=_spreads(_figures(one.scores) for one in found),
        gaps=_spreads(gaps(_figures(a.scores), _figures(b.scores)) for a, b in pairs),
        average_gap=_spread(average_gap(_figures(a.scores), _figures(b.scores)) for a, b in pairs),
        costs=_spreads(_named(one.costs, TOTALS) for one in found),
        reached=len(arrived),
        to_target=_spreads(one.spent for one in arrived),
        ratios=_spreads(one.shares for one in arrived),
        gap_at_target=_spread(one.gap for one in arrived),
        backdoor=_spreads(_named(one.backdoor, ("before", "after")) for one in found),
        behaviour=Counter(one.verification.behaviour for one in found if one.verification),
        depth=Counter(one.verification.depth for one in found if one.verification),
        looked_at=_looked_at(found),
        worst_undone=_spread(effect.value for effect in known),
        worst_kind="/".join(sorted({effect.kind for effect in known})),
        relearning=_relearning(found, group.reference),
        deletions=_steps(found),
    )


def before(group: Group) -> Spreads:
    """The figures of the models before the deletion: each seed's once, all methods share them."""
    found: dict[int, Figures] = {}
    for result in group.results:
        if result.before is not None:
            found.setdefault(result.cell.seed, result.before)
    return _spreads(_figures(found[seed]) for seed in sorted(found))


@dataclass(frozen=True)
class _Arrived:
    """What it cost to be as good on test data as retraining, as shares of retraining's cost, too;
    and how far the three accuracies were then from retraining's.
    """

    spent: dict[str, float]
    shares: dict[str, float]
    gap: float | None


def _compared(result: Result, retrain: Result, margin: float) -> _Arrived | None:
    """None if it was never as good; no shares where retraining's own rounds were not kept."""
    mine = costs.reached(result, retrain, margin)
    if mine is None:
        return None
    spent = costs.paid(result, mine)
    theirs = costs.reached(retrain, retrain, margin)
    shares = costs.ratios(spent, costs.paid(retrain, theirs)) if theirs else {}
    return _Arrived(spent, shares, costs.gap_at(mine, retrain))


def _looked_at(results: Sequence[Result]) -> tuple[Undone, ...]:
    found: dict[tuple[str, int], list[Mapping[str, float]]] = {}
    for result in results:
        for finding in result.verification.findings if result.verification else ():
            found.setdefault((finding.name, finding.rounds), []).append(finding.figures)
    return tuple(Undone(name, rounds, _spreads(each)) for (name, rounds), each in found.items())


def _relearning(results: Sequence[Result], reference: Mapping[int, Result]) -> Spreads:
    rows = []
    for result in results:
        if result.relearning is None:
            continue
        mine = Relearning(tuple(result.relearning.accuracies))
        row = {"area": mine.area, "first": mine.accuracies[0], "last": mine.accuracies[-1]}
        retrain = reference.get(result.cell.seed)
        if retrain is not None and retrain.relearning is not None:
            never_saw = Relearning(tuple(retrain.relearning.accuracies))
            row["advantage"] = advantage(mine, never_saw)
        rows.append(row)
    return _spreads(rows)


def _steps(results: Sequence[Result]) -> tuple[Step, ...]:
    longest = max((len(result.deletions) for result in results), default=0)
    return tuple(_step(results, number) for number in range(longest))


def _step(results: Sequence[Result], number: int) -> Step:
    at = [result.deletions for result in results if len(result.deletions) > number]
    own: list[float | None] = []
    earlier: list[float | None] = []
    others: list[float | None] = []
    for deletions in at:
        doors = deletions[number].backdoors
        gone = [deletion.client for deletion in deletions[: number + 1]]
        own.append(doors.get(gone[-1]))
        earlier.append(max((doors[c] for c in gone[:-1] if c in doors), default=None))
        stay = [value for client, value in doors.items() if client not in gone]
        others.append(sum(stay) / len(stay) if stay else None)
    return Step(
        number=number + 1,
        methods=tuple(dict.fromkeys(_done(d[number].method, d[number].tensors) for d in at)),
        scores=_spreads(_figures(deletions[number].scores) for deletions in at),
        own=_spread(own),
        earlier=_spread(earlier),
        others=_spread(others),
    )


def _done(method: str, tensors: Sequence[str]) -> str:
    return f"{method}: {', '.join(tensors)}" if tensors else method


def _figures(found: Figures | None) -> dict[str, float | None]:
    return _named(found, SCORES)


def _named(found: object, names: Iterable[str]) -> dict[str, float | None]:
    return {name: getattr(found, name, None) for name in names}


def _spread(values: Iterable[float | None]) -> Spread | None:
    return Spread.of([value for value in values if value is not None])


def _spreads(rows: Iterable[Mapping[str, float | None]]) -> Spreads:
    """The spread of each name over the rows that have it."""
    every = list(rows)
    names = dict.fromkeys(name for row in every for name in row)
    found = {name: _spread(row.get(name) for row in every) for name in names}
    return {name: spread for name, spread in found.items() if spread is not None}
