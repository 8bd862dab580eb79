"""The demonstration's results: one table, summary.json, and a plot for a newcomer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from rich.table import Table
from rich.text import Text

from fednot.demo.outcome import Course, Outcome

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: Final = (("#0b6e4f", "o"), ("#c1121f", "s"), ("#5b5b5b", "^"))
"""Colour and marker of each course, in the order of `Outcome.courses`."""
PASSED: Final = "PASS"


def table(outcome: Outcome) -> Table:
    """The results as one table."""
    found = Table(title="client-0, whose images carry a backdoor, is deleted", title_justify="left")
    found.add_column("model")
    for heading in ("test accuracy", "backdoor success", "rounds at stop", "rounds to target"):
        found.add_column(heading, justify="right")
    for heading in ("behaviour", "depth"):
        found.add_column(heading)
    found.add_row("before the deletion", *_cells(outcome.original), "", "", "")
    for course in outcome.courses:
        reached = course.rounds_to(outcome.target)
        cells = _cells(course)
        found.add_row(
            course.label, *cells, "never" if reached is None else str(reached), *_said(course)
        )
    return found


def meaning(outcome: Outcome) -> str:
    """What the verdicts mean, in a sentence, and what they say of each model."""
    verdicts = outcome.unlearned.verdicts
    found = (
        "Behaviour asks whether the model, as it stands, treats the deleted client's images like "
        "unseen ones; depth, whether it still does after what was done to its weights is undone."
    )
    if verdicts is None:
        return found
    done = outcome.unlearned.method or outcome.unlearned.label
    if outcome.unlearned.layers:
        done += f" on {', '.join(outcome.unlearned.layers)}"
    if verdicts.depth == PASSED:
        return f"{found} {done} stands up to that."
    return (
        f"{found} {done} does not: {verdicts.depth_reason} "
        "`make demo ASSURANCE=deep` goes on until it does."
    )


def write(outcome: Outcome, folder: Path) -> tuple[Path, Path]:
    """Writes summary.json and recovery.png and returns where they are."""
    summary, plot = folder / "summary.json", folder / "recovery.png"
    summary.write_text(json.dumps(outcome.summary(), indent=2) + "\n", encoding="utf-8")
    _plot(outcome, plot)
    return summary, plot


def _said(course: Course) -> tuple[Text, Text]:
    if course.verdicts is None:
        return Text(), Text()
    return _coloured(course.verdicts.behaviour), _coloured(course.verdicts.depth)


def _coloured(verdict: str) -> Text:
    style = "green" if verdict == PASSED else "bold red" if verdict == "FAIL" else "yellow"
    return Text(verdict, style)


def _cells(course: Course) -> tuple[str, str, str]:
    point = course.at_stop
    return f"{point.test_accuracy:.3f}", f"{point.backdoor_success:.3f}", str(point.round)


def _plot(outcome: Outcome, path: Path) -> None:
    figure, (accuracy, backdoor) = plt.subplots(1, 2, figsize=(11, 4.8), sharex=True)
    _draw(accuracy, outcome, "test_accuracy")
    accuracy.axhline(outcome.target, color="black", linewidth=0.8, linestyle=":")
    accuracy.annotate(
        "target",
        (0.99, outcome.target),
        xycoords=("axes fraction", "data"),
        xytext=(0, -3),
        textcoords="offset points",
        ha="right",
        va="top",
    )
    accuracy.set_title("How well it reads digits (higher is better)")
    accuracy.set_ylabel("test accuracy")
    _draw(backdoor, outcome, "backdoor_success")
    backdoor.set_title("What is left of the deleted client (lower is better)")
    backdoor.set_ylabel("backdoor success")
    backdoor.legend(loc="center right", frameon=False)
    lowest = min(point.test_accuracy for course in outcome.courses for point in course.curve)
    accuracy.set_ylim(max(0.0, lowest - 0.05), 1.01)
    backdoor.set_ylim(-0.03, 1.03)
    for axes in (accuracy, backdoor):
        axes.set_xlabel("recovery rounds after the deletion")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_headline(outcome))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _headline(outcome: Outcome) -> str:
    done = "; ".join(
        f"{course.label} could stop after round {course.stop}"
        for course in (outcome.unlearned, outcome.retrained)
        if course.stop
    )
    return f"One of {outcome.clients} clients is deleted. {done} (stars)" if done else "Deletion"


def _draw(axes: Axes, outcome: Outcome, field: str) -> None:
    before = getattr(outcome.original.at_stop, field)
    for course, (colour, marker) in zip(outcome.courses, STYLES, strict=True):
        start = [] if course is outcome.retrained else [(0, before)]
        points = start + [(point.round, getattr(point, field)) for point in course.curve]
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            marker=marker,
            markersize=3.5,
            label=course.label,
        )
        if course.stop:
            stop = course.at_stop
            axes.plot(stop.round, getattr(stop, field), marker="*", markersize=15, color=colour)
