"""What a group says of the claims of the study, in sentences: also where NoT loses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from lab.report.frontier import Point, cheapest_deep
from lab.report.measures import Measured
from lab.scores import FOUR, Spread

COST_LIMIT: Final = 0.6
DEPTH_LIMIT: Final = 0.7
IDENTITY_LIMIT: Final = 3.0
NATURAL: Final = "natural"


def claims(measured: Sequence[Measured], points: Sequence[Point], partition: str = "") -> list[str]:
    """A sentence for each claim that this group has something to say of."""
    return [
        *_forgets_better(measured),
        *_costs_less(measured),
        *_depth(measured, points),
        *(_by_identity(measured) if partition == NATURAL else ()),
    ]


def _forgets_better(measured: Sequence[Measured]) -> Iterator[str]:
    tuned = next((one for one in measured if one.method == "fine-tune" and one.average_gap), None)
    if tuned is None or tuned.average_gap is None:
        return
    for one in measured:
        if one.method == "not" and one.average_gap is not None:
            yield (
                f"{one.name} has an average gap of {_points(one.average_gap)} against "
                f"fine-tuning's {_points(tuned.average_gap)}: "
                f"{_against(one.average_gap, tuned.average_gap)}. "
                f"The largest of the four: {_largest(one)}, of fine-tuning {_largest(tuned)}."
            )


def _against(ours: Spread, theirs: Spread) -> str:
    """Beyond the deviations: the intervals of mean and deviation do not meet."""
    side = "smaller" if ours.mean < theirs.mean else "not smaller"
    if ours.deviation is None or theirs.deviation is None:
        return f"{side}, by a single seed, so that no deviation is known"
    apart = abs(ours.mean - theirs.mean) > ours.deviation + theirs.deviation
    return f"{side}, {'beyond' if apart else 'but within'} the deviations"


def _largest(one: Measured) -> str:
    """Which of the four gaps is largest; whoever has an average gap has all of them."""
    name = max(FOUR, key=lambda each: one.gaps[each].mean)
    return f"{name}, {100 * one.gaps[name].mean:.2f}"


def _costs_less(measured: Sequence[Measured]) -> Iterator[str]:
    for one in measured:
        if one.method != "not":
            continue
        if not one.reached:
            yield f"{one.name} was never as good on test data as retraining, so no cost compares."
            continue
        shares = [
            f"{name} {share.mean:.2f}"
            for name in ("bytes", "flops")
            if (share := one.ratios.get(name)) is not None
        ]
        if not shares:
            continue
        over = any(one.ratios[n].mean > COST_LIMIT for n in ("bytes", "flops") if n in one.ratios)
        seeds = "" if one.always_reached else f" (in {one.reached} of {len(one.seeds)} seeds)"
        yield (
            f"{one.name} needs of retraining's cost to the same test accuracy{seeds}: "
            f"{', '.join(shares)}; {'not ' if over else ''}within {COST_LIMIT:g}."
        )


def _depth(measured: Sequence[Measured], points: Sequence[Point]) -> Iterator[str]:
    if not any(one.depth for one in measured):
        return
    found = cheapest_deep(points)
    if found is None or found.rounds is None:
        yield (
            "No variant passes behaviour and depth in every seed and is as good on test data; the "
            f"frontier shows what each lacks. Retraining: {_verdict_of_retraining(measured)}."
        )
        return
    share = ""
    if found.ratio is not None:
        inside = "within" if found.ratio <= DEPTH_LIMIT else "over"
        share = f", {found.ratio:.2f} of retraining's: {inside} {DEPTH_LIMIT:g}"
    told = f"{found.rounds:.1f} rounds{share}"
    yield f"The cheapest that passes both verdicts is {found.name}, {told}."


def _verdict_of_retraining(measured: Sequence[Measured]) -> str:
    found = next((one.passes for one in measured if one.method == "retrain"), None)
    return {True: "pass", False: "fail", None: "not known"}[found]


def _by_identity(measured: Sequence[Measured]) -> Iterator[str]:
    """Where a client is a person: how far the accuracy on who is forgotten is from retraining's."""
    for one in measured:
        gap = one.gaps.get("forget")
        if gap is not None and one.method != "retrain":
            inside = "within" if 100 * gap.mean <= IDENTITY_LIMIT else "not within"
            yield (
                f"{one.name}: the accuracy on who is forgotten is {_points(gap)} points from "
                f"retraining's, {inside} {IDENTITY_LIMIT:g}."
            )


def _points(spread: Spread) -> str:
    """In percentage points."""
    if spread.deviation is None:
        return f"{100 * spread.mean:.2f}"
    return f"{100 * spread.mean:.2f} ± {100 * spread.deviation:.2f}"
