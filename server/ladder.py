"""The ladder of a deep assurance: plans that a job tries one after the other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.layer_choice import KINDS
from server.methods import DEFAULT, METHODS, method_named

USUAL: Final = "first"
"""The layers of a method that takes layers, if its rung names none."""
MOST_ROUNDS: Final = 10_000


@dataclass(frozen=True)
class Rung:
    """One plan: a method by its name, with the `layers` that it takes, "" if it takes none, and
    `rounds` of recovery, 0 for the usual.
    """

    method: str
    layers: str = ""
    rounds: int = 0


def rung_of(text: str) -> Rung:
    """Reads SELECTOR, METHOD[:NUMBER] or METHOD[:NUMBER]@SELECTOR, each with *ROUNDS or without.

    A selector alone means `not`. Raises FednotError (INVALID_SELECTOR, UNKNOWN_METHOD).
    """
    plan, star, count = text.strip().partition("*")
    plan, rounds = plan.strip(), _rounds(text, count.strip()) if star else 0
    if _is_selector(plan):
        return Rung(DEFAULT, plan, rounds)
    name, at, layers = (part.strip() for part in plan.partition("@"))
    if name.partition(":")[0] not in METHODS:
        raise _no_plan(text)
    method = method_named(name)
    if not method.needs.layers:
        if at:
            raise FednotError(
                Reason.INVALID_SELECTOR, f"{text!r}: {method.name} takes no layers; leave {at} out"
            )
        return Rung(method.name, rounds=rounds)
    if at and not _is_selector(layers):
        raise _no_plan(text)
    return Rung(method.name, layers or USUAL, rounds)


def rounds_of(ladder: Sequence[str], number: int) -> int:
    """The rounds that the rung of a number, counted from 1, asks for; 0 if it does not say."""
    return rung_of(ladder[number - 1]).rounds if 1 <= number <= len(ladder) else 0


def _rounds(text: str, count: str) -> int:
    if not count.isdecimal() or not 1 <= int(count) <= MOST_ROUNDS:
        raise FednotError(Reason.INVALID_SELECTOR, f"{text!r}: {count!r} is no number of rounds")
    return int(count)


def _is_selector(text: str) -> bool:
    return text.partition("=")[0].strip() in KINDS


def _no_plan(text: str) -> FednotError:
    return FednotError(
        Reason.INVALID_SELECTOR,
        f"{text!r} is no plan: use first, all-but-last, layers=NAME,..., "
        f"index=N,..., last or all, or one of {', '.join(METHODS)}, with @ and the layers behind "
        "it if they are not the first, and *ROUNDS behind it if need be",
    )
