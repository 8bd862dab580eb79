"""How deep a method forgot: the worst of the model as it stands and of what undoing makes of it."""

from __future__ import annotations

from dataclasses import dataclass

from lab.results import Finding, Result

TRIGGER = "trigger"
FORGET = "forget"


@dataclass(frozen=True)
class Effect:
    """The worst that was found, a share; `kind` is "trigger" or "forget".

    With a backdoor: by how much the trigger raises the share of its class. Without: by how much the
    forgotten samples are better answered than by the retraining of the same seed, at least 0.
    """

    value: float
    kind: str
    model: str
    rounds: int


def worst(result: Result, retrain: Result | None) -> Effect | None:
    """The worst model that verification looked at, by which the verdict on depth goes as well.

    Undoing what never forgot may well break it. None without an undo attack, or such a figure.
    """
    found = _findings(result)
    if not any(finding.undone for finding in found):
        return None
    by_trigger = [_effect(finding, None) for finding in found]
    known = [effect for effect in by_trigger if effect is not None]
    if not known and retrain is not None and retrain.scores is not None:
        known = [
            effect
            for finding in found
            if (effect := _effect(finding, retrain.scores.forget)) is not None
        ]
    return max(known, key=lambda effect: effect.value, default=None)


def _findings(result: Result) -> tuple[Finding, ...]:
    return result.verification.findings if result.verification else ()


def _effect(finding: Finding, forget: float | None) -> Effect | None:
    """By the trigger if no accuracy to compare with is given, else by the forgotten samples."""
    if forget is None:
        value, kind = finding.figures.get("trigger_effect"), TRIGGER
    else:
        accuracy = finding.figures.get("accuracy_forgotten")
        value, kind = None if accuracy is None else max(0.0, accuracy - forget), FORGET
    return None if value is None else Effect(value, kind, finding.name, finding.rounds)
