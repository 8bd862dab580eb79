"""The plots of a report as SVG text; matplotlib is imported when the first is drawn.

Its objects are used and not pyplot, so that nothing is kept between plots.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final

from lab.report.frontier import Point
from lab.report.groups import Group, Row
from lab.results import Round

SIZE: Final = (8.0, 4.5)
STYLES: Final = ("-", "--", ":", "-.")
COLOURS: Final = 10

Curve = list[tuple[int, float]]


def curve(row: Row, name: str) -> Curve:
    """The mean over seeds of a figure of each round; a round counts where some seed has it."""
    values: dict[int, list[float]] = {}
    for result in row.results.values():
        for at, found in enumerate(result.rounds, 1):
            value = _value(found, name)
            if value is not None:
                values.setdefault(at, []).append(value)
    return [(at, sum(found) / len(found)) for at, found in sorted(values.items())]


def by_round(group: Group, name: str, title: str) -> str | None:
    """A line for each method, mean over seeds; None if no round has the figure."""
    curves = [(row.name, found) for row in group.rows if (found := curve(row, name))]
    if not curves:
        return None
    figure, axes = _frame(f"{title}: {group.title}")
    styles = cycle([(colour, style) for style in STYLES for colour in range(COLOURS)])
    for (label, found), (colour, style) in zip(curves, styles, strict=False):
        across, up = zip(*found, strict=True)
        marker = "." if len(found) < 30 else None
        axes.plot(
            across,
            [100 * value for value in up],
            style,
            color=f"C{colour}",
            marker=marker,
            label=_plain(label),
        )
    axes.set_xlabel("round after the deletion")
    axes.set_ylabel("accuracy, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _drawn(figure, axes)


def frontier_plot(group: Group, points: Sequence[Point]) -> str | None:
    """Rounds against what undoing brings back; None if no method has a place."""
    placed = [point for point in points if not point.why_not]
    if not placed:
        return None
    figure, axes = _frame(f"Recovery cost against depth: {group.title}")
    for passes, marker, label in (
        (True, "o", "pass"),
        (False, "x", "fail"),
        (None, "s", "not known"),
    ):
        found = [point for point in placed if point.passes is passes]
        if found:
            axes.scatter(
                [point.rounds for point in found],
                [100 * (point.effect or 0.0) for point in found],
                marker=marker,
                color={True: "C2", False: "C3", None: "C7"}[passes],
                label=f"both verdicts: {label}",
            )
    best = [point for point in placed if point.best]
    axes.plot(
        [point.rounds for point in best],
        [100 * (point.effect or 0.0) for point in best],
        drawstyle="steps-post",
        color="C0",
        linewidth=1,
        label="frontier",
    )
    axes.margins(x=0.15)
    for point in placed:
        at = (point.rounds, 100 * (point.effect or 0.0))
        axes.annotate(_plain(point.name), at, xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel("rounds to retraining's test accuracy")
    axes.set_ylabel("worst effect, as it stands or undone, points")
    return _drawn(figure, axes)


def _value(found: Round, name: str) -> float | None:
    value: float | None = getattr(found, name)
    return value


def _frame(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_plain(title), fontsize=10)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _drawn(figure: Any, axes: Any) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    written = io.StringIO()
    with rc_context({"svg.hashsalt": "fednot", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure)
        figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()


def _plain(text: str) -> str:
    """matplotlib would read dollar signs as formulas."""
    return text.replace("$", r"\$")
