"""The frontier of recovery cost against depth: which variant forgets deeply, and at what price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab.report.measures import Measured


@dataclass(frozen=True)
class Point:
    """One method: mean rounds to retraining's test accuracy and the worst effect, undone or not.

    `best` says that no other method is as good in both and better in one. `why_not` says why it has
    no place on the plot; then `rounds` or `effect` may be None.
    """

    name: str
    method: str
    rounds: float | None
    effect: float | None
    ratio: float | None
    passes: bool | None
    best: bool = False
    why_not: str = ""


def frontier(measured: Sequence[Measured]) -> tuple[Point, ...]:
    """A point for each method, those without a place last."""
    points = [_point(one) for one in measured]
    placed = [point for point in points if not point.why_not]
    marked = [
        Point(**{**vars(point), "best": not any(_beats(other, point) for other in placed)})
        for point in placed
    ]
    marked.sort(key=lambda point: (point.rounds or 0.0, point.effect or 0.0))
    return (*marked, *(point for point in points if point.why_not))


def cheapest_deep(points: Sequence[Point]) -> Point | None:
    """Of the methods but retraining that pass both verdicts in every seed the one of fewest rounds;
    None if there is none.
    """
    passing = [p for p in points if p.passes and not p.why_not and p.method != "retrain"]
    return min(passing, key=lambda point: point.rounds or 0.0, default=None)


def _point(one: Measured) -> Point:
    rounds, ratio = one.to_target.get("rounds"), one.ratios.get("rounds")
    return Point(
        name=one.name,
        method=one.method,
        rounds=rounds.mean if rounds else None,
        effect=one.worst_undone.mean if one.worst_undone else None,
        ratio=ratio.mean if ratio else None,
        passes=one.passes,
        why_not=_why_not(one),
    )


def _why_not(one: Measured) -> str:
    if not one.seeds:
        return "nothing was measured"
    if not one.always_reached:
        return f"as good as retraining on test data in only {one.reached} of {len(one.seeds)} seeds"
    if one.worst_undone is None:
        return "no undo attack was made, or it has no figure to go by"
    return ""


def _beats(other: Point, point: Point) -> bool:
    theirs, ours = (
        (other.rounds or 0.0, other.effect or 0.0),
        (point.rounds or 0.0, point.effect or 0.0),
    )
    return theirs != ours and theirs[0] <= ours[0] and theirs[1] <= ours[1]
