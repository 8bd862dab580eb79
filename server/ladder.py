"""The ladder of a deep assurance: plans that a job tries one after the other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fednot.errors import FednotError, Reason

RETRAIN = "retrain"


@dataclass(frozen=True)
class Rung:
    """One plan: `layers` to negate, or `method` retrain; `rounds` of recovery, 0 for the usual."""

    method: str
    layers: str = ""
    rounds: int = 0


def rung_of(text: str) -> Rung:
    """Reads SELECTOR, SELECTOR*ROUNDS, retrain or retrain*ROUNDS.

    Raises FednotError (INVALID_SELECTOR).
    """
    plan, star, count = text.strip().partition("*")
    plan, rounds = plan.strip(), 0
    if star:
        if not count.strip().isdecimal() or not 1 <= int(count) <= 10_000:
            raise FednotError(
                Reason.INVALID_SELECTOR, f"{text!r}: {count!r} is no number of rounds"
            )
        rounds = int(count)
    kind = plan.partition("=")[0].strip()
    if plan == RETRAIN:
        return Rung(RETRAIN, rounds=rounds)
    if kind not in ("first", "all-but-last", "layers", "index"):
        raise FednotError(
            Reason.INVALID_SELECTOR,
            f"{text!r} is no plan: use first, all-but-last, layers=NAME,..., index=N,... or "
            "retrain, and *ROUNDS behind it if need be",
        )
    return Rung("not", plan, rounds)


def rounds_of(ladder: Sequence[str], number: int) -> int:
    """The rounds that the rung of a number, counted from 1, asks for; 0 if it does not say."""
    return rung_of(ladder[number - 1]).rounds if 1 <= number <= len(ladder) else 0
