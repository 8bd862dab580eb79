"""What a method had cost when it was first as good on test data as retraining in the end."""

from __future__ import annotations

from typing import Final

from lab.results import Result, Round

MARGIN: Final = 0.01
"""By how much less than retraining's final test accuracy is good enough."""
ROUNDING: Final = 1e-9
RECOVERY: Final = "recovery"
ACCURACIES: Final = ("retain", "forget", "test")
PAID: Final = ("rounds", "bytes", "flops", "seconds")


def reached(result: Result, retrain: Result, margin: float) -> Round | None:
    """The first round whose test accuracy is retraining's final one less the margin, or None.

    Only recovery rounds count where there are any: a method that has yet to forget may be as good
    on test data as ever. For a method without them, such as one that distils, its last round.
    """
    if retrain.scores is None or retrain.scores.test is None:
        return None
    goal = retrain.scores.test - margin - ROUNDING
    recovery = [round_ for round_ in result.rounds if round_.phase == RECOVERY]
    for found in recovery or result.rounds[-1:]:
        if found.test is not None and found.test >= goal:
            return found
    return None


def paid(result: Result, until: Round) -> dict[str, float]:
    """Rounds, bytes, FLOPs and seconds from the deletion to the end of a round of the result."""
    found: dict[str, float] = {"rounds": float(result.rounds.index(until) + 1)}
    for name in PAID[1:]:
        value = getattr(until, name)
        if value is not None:
            found[name] = value
    return found


def gap_at(until: Round, retrain: Result) -> float | None:
    """The mean distance of the three accuracies after a round to those after retraining's last one.

    Both were scored by round, on the same samples. None if one of them was not.
    """
    if not retrain.rounds:
        return None
    last = retrain.rounds[-1]
    pairs = [(getattr(until, name), getattr(last, name)) for name in ACCURACIES]
    apart = [abs(mine - theirs) for mine, theirs in pairs if None not in (mine, theirs)]
    return sum(apart) / len(ACCURACIES) if len(apart) == len(ACCURACIES) else None


def ratios(costs: dict[str, float], retrain: dict[str, float]) -> dict[str, float]:
    """Each cost as a share of retraining's; those that retraining does not have are left out."""
    return {name: costs[name] / retrain[name] for name in costs if retrain.get(name)}
