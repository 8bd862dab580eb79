"""The accuracy of rounds as coordinates of an inline SVG; the template draws it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fednot.v1 import federation_pb2, operator_pb2

WIDTH: Final = 640
HEIGHT: Final = 220
LEFT: Final = 44
RIGHT: Final = 12
TOP: Final = 12
BOTTOM: Final = 28
ACCURACY: Final = "accuracy"


@dataclass(frozen=True)
class Mark:
    """A round's accuracy in the chart's units; `recovers` draws it as a square."""

    x: float
    y: float
    recovers: bool
    says: str


@dataclass(frozen=True)
class Chart:
    """A line through marks in a frame of WIDTH by HEIGHT; `says` is the chart in a sentence.

    `up` are the heights of lines across it and what they stand for; `first` and `last` are the
    numbers of the outermost rounds.
    """

    says: str
    line: str
    marks: tuple[Mark, ...]
    up: tuple[tuple[float, str], ...]
    first: int
    last: int


def chart_of(rounds: Iterable[operator_pb2.Round]) -> Chart | None:
    """The chart of rounds in any order; None if none of them was scored."""
    scored = sorted(
        (each.number, each.metrics[ACCURACY], each) for each in rounds if ACCURACY in each.metrics
    )
    if not scored:
        return None
    first, last = scored[0][0], scored[-1][0]
    marks = tuple(
        Mark(
            _across(number - first, last - first),
            _up(accuracy),
            recovers := each.phase == federation_pb2.ROUND_PHASE_RECOVERY,
            f"round {number}{', recovery' if recovers else ''}: {accuracy:.4f}",
        )
        for number, accuracy, each in scored
    )
    best = max(accuracy for _, accuracy, _ in scored)
    return Chart(
        says=f"Accuracy after each of {len(scored)} rounds, {first} to {last}: "
        f"{scored[0][1]:.3f} at first, {scored[-1][1]:.3f} at last, {best:.3f} at best.",
        line=" ".join(f"{mark.x:g},{mark.y:g}" for mark in marks),
        marks=marks,
        up=tuple((_up(share), f"{share:g}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
        first=first,
        last=last,
    )


def _across(at: int, of: int) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (at / of if of else 0.5), 1)


def _up(share: float) -> float:
    within = min(max(share, 0.0), 1.0)
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * within, 1)
