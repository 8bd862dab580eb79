"""The two plots of a receipt's page as coordinates; the template draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fednot.receipt.payload import LossHistogram, Receipt, Verified

WIDTH: Final = 320
HEIGHT: Final = 150
LEFT: Final = 34
RIGHT: Final = 8
TOP: Final = 8
BOTTOM: Final = 24
ACCURACY: Final = "accuracy"
LOWEST_DECADE: Final = -8
PER_DECADE: Final = 4


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, in the plot's units."""

    at: float
    label: str


@dataclass(frozen=True)
class Plot:
    """Lines in a frame of WIDTH by HEIGHT units; `says` is the plot in a sentence.

    `lines` are the points of polylines, drawn one like the other only in shape. `target` is the
    height of a dashed line, None without one.
    """

    says: str
    lines: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    target: float | None = None


def recovery_plot(receipt: Receipt) -> Plot | None:
    """The accuracy after each recovery round; None if there was no round that was scored."""
    scored = [
        (number, point.figures[ACCURACY])
        for number, point in enumerate(receipt.chosen.rounds, 1)
        if ACCURACY in point.figures
    ]
    if not scored:
        return None
    last = max(scored[-1][0], 2)
    dots = tuple((_across(number - 1, last - 1), _up(share)) for number, share in scored)
    target = receipt.target_accuracy
    goal = f", target {target:.3f}" if target is not None else ""
    return Plot(
        says=f"Accuracy after each of {len(scored)} recovery rounds: "
        f"{scored[0][1]:.3f} after the first, {scored[-1][1]:.3f} after the last{goal}.",
        lines=(_points(dots),),
        dots=dots,
        across=(Tick(_across(0, 1), "1"), Tick(_across(1, 1), str(last))),
        up=_shares(),
        target=None if target is None else _up(min(max(target, 0.0), 1.0)),
    )


def loss_plot(found: Verified | None) -> Plot | None:
    """How the losses of the forgotten and of unseen samples are spread; None if not known."""
    if found is None or found.forgotten_losses is None or found.unseen_losses is None:
        return None
    groups = (found.forgotten_losses, found.unseen_losses)
    shares = [_share_by_bin(group) for group in groups]
    filled = [at for each in shares for at, share in enumerate(each) if share > 0]
    if not filled:
        return None
    first, last = min(filled), max(filled) + 1
    highest = max(max(each) for each in shares)
    return Plot(
        says=f"Losses of {sum(groups[0].counts)} forgotten samples (solid) and "
        f"{sum(groups[1].counts)} unseen ones (dashed): the more they are alike, the better it is "
        "forgotten.",
        lines=tuple(_steps(each[first:last], highest) for each in shares),
        dots=(),
        across=(
            Tick(_across(0, 1), _edge(first)),
            Tick(_across(1, 1), _edge(last)),
        ),
        up=(Tick(_up(0.0), "0 %"), Tick(_up(1.0), f"{100 * highest:.0f} %")),
    )


def _share_by_bin(group: LossHistogram) -> list[float]:
    total = sum(group.counts) or 1
    return [count / total for count in group.counts]


def _steps(shares: Sequence[float], highest: float) -> str:
    points = []
    for at, share in enumerate(shares):
        height = _up(share / highest)
        points += [(_across(at, len(shares)), height), (_across(at + 1, len(shares)), height)]
    return _points(points)


def _edge(number: int) -> str:
    """The loss at the lower edge of a bin."""
    if number == 0:
        return "0"
    exponent = LOWEST_DECADE + (number - 1) / PER_DECADE
    return f"{10**exponent:.0e}" if exponent < -1 else f"{10**exponent:.2g}"


def _shares() -> tuple[Tick, ...]:
    return tuple(Tick(_up(share), f"{share:g}") for share in (0.0, 0.5, 1.0))


def _across(at: float, of: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * at / of, 1)


def _up(share: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)


def _points(found: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in found)
