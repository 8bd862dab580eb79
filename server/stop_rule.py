"""When recovery stops: at its target, at a plateau, at its budget, or because nothing recovers.

The rule is a pure function of the scores so far, so a restarted server judges as the first did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from server.records import RecoveryPolicy, StopReason

CHANCE_MARGIN: Final = 0.05
"""An accuracy up to the best constant guess plus this, or plus half of what the target is above
it if that is less, is no better than chance."""

IMPROVEMENT: Final = 0.002
"""An accuracy that rises by less than this over the window has not improved."""


@dataclass(frozen=True)
class Judgement:
    """What the rule says of a recovery.

    `stopped_at` is the number of rounds after which the rule first held (0: not yet) and `reason`
    which rule; `done` says whether to run no more rounds; `recovered` whether the model is worth
    keeping, which a model at chance, or stuck below half way to its target, is not.
    """

    done: bool
    recovered: bool
    stopped_at: int = 0
    reason: StopReason | None = None


def judge(
    scores: Sequence[Mapping[str, float]],
    *,
    policy: RecoveryPolicy,
    budget: int,
    target: float | None,
    has_alternative: bool,
) -> Judgement:
    """Judges a recovery by the metrics of its rounds, oldest first.

    `target` is the accuracy to reach (a ratio) or None if there is none; `budget` the rounds that
    may be run. `has_alternative` says whether the attempt may be given up for another one: if not,
    a model that is slow to leave chance gets its whole budget, and is kept whatever it reached.
    Rounds without an "accuracy" in their metrics count for the budget alone.
    """
    for rounds in range(1, len(scores) + 1):
        reason = _reason(scores[:rounds], policy, budget, target)
        if reason is not None:
            recovered = _recovered(scores[:rounds], reason, target)
            if not recovered and not has_alternative:
                if rounds < budget:
                    continue
                reason, recovered = StopReason.BUDGET, True
            done = not policy.full_budget or not recovered or len(scores) >= budget
            return Judgement(done, recovered, rounds, reason)
    return Judgement(done=len(scores) >= budget, recovered=True)


def chance_of(metrics: Mapping[str, float]) -> float:
    """The accuracy of the best constant guess, 0 if the evaluation does not say."""
    return metrics.get("chance", 0.0)


def _reason(
    scores: Sequence[Mapping[str, float]],
    policy: RecoveryPolicy,
    budget: int,
    target: float | None,
) -> StopReason | None:
    accuracies = [score["accuracy"] for score in scores if "accuracy" in score]
    rounds = len(scores)
    if "accuracy" in scores[-1]:
        if rounds >= policy.min_rounds and target is not None and accuracies[-1] >= target:
            return StopReason.TARGET
        if len(accuracies) >= policy.chance_rounds and _at_chance(accuracies, scores[-1], target):
            return StopReason.CHANCE
        if rounds >= policy.min_rounds and _plateau(accuracies, policy.plateau_rounds):
            return StopReason.PLATEAU
    return StopReason.BUDGET if rounds >= budget else None


def _at_chance(
    accuracies: Sequence[float], latest: Mapping[str, float], target: float | None
) -> bool:
    if "chance" not in latest:
        return False
    chance = chance_of(latest)
    above = CHANCE_MARGIN if target is None else (target - chance) / 2
    return max(accuracies) <= chance + max(0.0, min(CHANCE_MARGIN, above))


def _plateau(accuracies: Sequence[float], window: int) -> bool:
    if len(accuracies) <= window:
        return False
    return max(accuracies[-window:]) < max(accuracies[:-window]) + IMPROVEMENT


def _recovered(
    scores: Sequence[Mapping[str, float]], reason: StopReason, target: float | None
) -> bool:
    if reason in (StopReason.CHANCE, StopReason.TARGET):
        return reason is StopReason.TARGET
    if target is None or not any("accuracy" in score for score in scores):
        return True
    chance = min(max(chance_of(score) for score in scores), target)
    return max(score.get("accuracy", 0.0) for score in scores) >= (chance + target) / 2
