"""The two verdicts, from the figures of the recovered model and of those of the undo attack.

Behaviour: does the recovered model, as it stands, treat the forgotten samples like unseen ones?
Depth: does it still once the layers of the attempt are negated again? Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.records import Finding, Judged, Thresholds, Verdict
from server.verification.attacks import FEWEST

GONE = "the target is gone and no probe exists"


def judge(figures: Mapping[str, float], thresholds: Thresholds, *, missing: str = "") -> Judged:
    """Judges one model by its figures.

    A trigger that still works fails it. Else the interval of the membership AUC decides; where
    there is none, and `missing` says why, a trigger alone does.
    """
    trigger, works = _trigger(figures, thresholds)
    if works:
        return Judged(Verdict.FAIL, f"{trigger}.")
    if "auc" in figures:
        verdict, reason = _membership(figures, thresholds)
        return Judged(verdict, f"{reason}; {trigger}." if trigger else f"{reason}.")
    why = missing or _too_few(figures)
    if trigger:
        return Judged(Verdict.PASS, f"{trigger}; by the trigger alone: {why}.")
    return Judged(Verdict.NOT_POSSIBLE, f"{why}.")


def judge_depth(
    recovered: Finding,
    undone: Sequence[Finding],
    thresholds: Thresholds,
    *,
    missing: str = "",
    gap: str = "",
    note: str = "",
) -> Judged:
    """Judges the recovered model and those of the undo attack: as bad as the worst of them.

    What a model shows as it stands needs no attack, so depth is never better than behaviour. `gap`
    says which models could not be made, so that nothing may pass; `note` is added to the reason.
    """
    added = f" {note}" if note else ""
    every = (recovered, *undone)
    judged = [(found, judge(found.figures, thresholds, missing=missing)) for found in every]
    for verdict in (Verdict.FAIL, Verdict.NOT_POSSIBLE):
        for found, one in judged:
            if one.verdict is verdict:
                return Judged(verdict, f"{_title(found)}: {one.reason}{added}")
    if gap or not undone:
        return Judged(Verdict.NOT_POSSIBLE, f"{gap or 'no layer could be undone'}.{added}")
    worst, one = max(judged[1:], key=lambda pair: _badness(pair[0].figures))
    return Judged(
        Verdict.PASS,
        f"each of {len(undone)} models of the undo attack passes; the least so, "
        f"{_title(worst)}: {one.reason}{added}",
    )


def rank(judged: Judged) -> int:
    """Of two verdicts the better one has the higher rank."""
    return (Verdict.FAIL, Verdict.NOT_POSSIBLE, Verdict.PASS).index(judged.verdict)


def _trigger(figures: Mapping[str, float], thresholds: Thresholds) -> tuple[str, bool]:
    if "trigger_effect" not in figures:
        return "", False
    effect, margin = figures["trigger_effect"], thresholds.trigger_margin
    works = effect > margin
    return (
        f"the trigger raises the share of its class by {effect:.2f}, "
        f"{'more' if works else 'no more'} than {margin:g}",
        works,
    )


def _membership(figures: Mapping[str, float], thresholds: Thresholds) -> tuple[Verdict, str]:
    low, high, margin = figures["auc_low"], figures["auc_high"], thresholds.auc_margin
    sizes = (
        f"{figures.get('samples_forgotten', 0):.0f} forgotten and "
        f"{figures.get('samples_unseen', 0):.0f} unseen samples"
    )
    found = f"the membership AUC is {figures['auc']:.2f} (95 % {low:.2f} to {high:.2f}, {sizes})"
    if high - low > 2 * margin:
        return (
            Verdict.NOT_POSSIBLE,
            f"{found}, an interval wider than {2 * margin:g}: too few samples",
        )
    inside = abs(low - 0.5) <= margin and abs(high - 0.5) <= margin
    verdict = Verdict.PASS if inside else Verdict.FAIL
    return verdict, f"{found}, {'' if inside else 'not '}within 0.5 ± {margin:g}"


def _too_few(figures: Mapping[str, float]) -> str:
    return (
        f"there are {figures.get('samples_forgotten', 0):.0f} forgotten and "
        f"{figures.get('samples_unseen', 0):.0f} unseen samples, and {FEWEST} of each are needed"
    )


def _title(found: Finding) -> str:
    return f"{found.model}, after {found.rounds} rounds" if found.rounds else found.model


def _badness(figures: Mapping[str, float]) -> float:
    reach = [abs(figures[key] - 0.5) for key in ("auc_low", "auc_high") if key in figures]
    return max([*reach, figures.get("trigger_effect", 0.0)])
