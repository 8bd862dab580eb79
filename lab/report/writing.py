"""From a folder of results to the files of its report."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fednot.whole_file import write_whole
from lab import results
from lab.membership import study as per_example
from lab.report import plots, tables
from lab.report.claims import claims
from lab.report.costs import MARGIN
from lab.report.frontier import Point, frontier
from lab.report.groups import Group, Study, study_of
from lab.report.measures import Measured, before, measure
from lab.report.pages import Page, Picture, Section, html, markdown
from lab.report.published import beside
from lab.report.summary import group_of, summary_of

PLOTS: Final = "plots"
PROVENANCE: Final = ("commit", "machine", "torch", "fednot", "engine", "threads", "device")
TIMED: Final = ("machine", "device", "threads")
"""What must be equal for wall times to compare."""


@dataclass(frozen=True)
class Written:
    """The files of a report, and how many cells it lacks."""

    markdown: Path
    html: Path
    summary: Path
    lacking: int


def write(folder: Path, *, margin: float = MARGIN) -> Written:
    """Writes report.md, report.html, summary.json and plots/*.svg from the results of a folder.

    `margin` is by how much less than retraining's test accuracy is good enough when costs are
    compared. Raises lab.results.ResultError if there are no results, OSError.
    """
    study = study_of(results.load(folder))
    sections: list[Section] = []
    groups: list[dict[str, Any]] = []
    for group in study.groups:
        measured = [measure(group, row, margin) for row in group.rows]
        points = frontier(measured)
        told = claims(measured, points, group.partition)
        pictures = tuple(_pictures(group, points))
        sections.append(_section(group, measured, points, told, pictures, margin))
        groups.append(group_of(group, measured, before(group), points, told))
    sections += _per_example(folder)
    page = Page("Report of the lab", tuple(_opening(study)), (*_troubled(study), *sections))
    _draw(folder, sections)
    files = Written(
        folder / "report.md", folder / "report.html", folder / "summary.json", len(study.troubles)
    )
    write_whole(files.markdown, markdown(page))
    write_whole(files.html, html(page))
    write_whole(files.summary, summary_of(groups, study.troubles, per_example.read(folder)))
    return files


def _draw(folder: Path, sections: Sequence[Section]) -> None:
    (folder / PLOTS).mkdir(exist_ok=True)
    for section in sections:
        for picture in section.pictures:
            write_whole(folder / picture.file, picture.svg)


def _section(
    group: Group,
    measured: Sequence[Measured],
    points: Sequence[Point],
    told: Sequence[str],
    pictures: tuple[Picture, ...],
    margin: float,
) -> Section:
    found = [
        tables.accuracy_table(measured, before(group)),
        *(
            tables.published_table(one)
            for one in beside(group.dataset, group.model, group.partition)
        ),
        tables.cost_table(measured),
        tables.target_table(measured, margin),
        tables.backdoor_table(measured),
        tables.verdict_table(measured),
        tables.undo_table(measured),
        tables.relearning_table(measured),
        tables.deletion_table(measured),
        tables.frontier_table(points) if any(one.depth for one in measured) else None,
        settings_table(group),
    ]
    shown = tuple(table for table in found if table is not None and table.rows)
    return Section(group.title, (*_warnings(group), *told), shown, pictures)


def _pictures(group: Group, points: Sequence[Point]) -> Iterator[Picture]:
    start = "-".join(re.findall(r"[a-z0-9.]+", group.title.lower()))
    drawn = {
        "test": (plots.by_round(group, "test", "Test accuracy"), "Test accuracy by round"),
        "forget": (
            plots.by_round(group, "forget", "Accuracy on the forgotten"),
            "Accuracy on the forgotten samples by round",
        ),
        "backdoor": (plots.by_round(group, "backdoor", "Backdoor"), "Backdoor by round"),
        "frontier": (
            plots.frontier_plot(group, points),
            "Rounds to retraining's test accuracy against the worst effect, undone or not",
        ),
    }
    for name, (svg, says) in drawn.items():
        if svg is not None:
            yield Picture(f"{PLOTS}/{start}-{name}.svg", svg, f"{says}, {group.title}.")


def _per_example(folder: Path) -> list[Section]:
    """What `python -m lab.membership` found, if it was run for this folder."""
    found = per_example.read(folder)
    if found is None:
        return []
    return [Section("Per-example membership inference", (), (tables.lira_table(found),))]


def _troubled(study: Study) -> tuple[Section, ...]:
    if not study.troubles:
        return ()
    return (Section("What is lacking", (), (tables.trouble_table(study.troubles),)),)


def _opening(study: Study) -> Iterator[str]:
    every = [result for group in study.groups for result in group.results]
    yield f"{len(every)} cells were measured; {len(study.troubles)} failed or are missing."
    for name in PROVENANCE:
        values = sorted({str(one.provenance[name]) for one in every if name in one.provenance})
        if values:
            yield f"{name}: {', '.join(values)}"
    seen = {tuple(str(one.provenance.get(name)) for name in TIMED) for one in every}
    if len(seen) > 1:
        yield "Cells ran on different machines, devices or threads: do not compare wall times."


def _warnings(group: Group) -> Iterator[str]:
    if not group.reference:
        yield "There is no retraining here, so nothing has a gap and no cost compares."
        return
    alone = sorted({one.cell.seed for one in group.results} - set(group.reference))
    if alone:
        told = ", ".join(map(str, alone))
        yield f"Without a retraining, and so without gaps: seed {told}."


def settings_table(group: Group) -> tables.Table:
    """The settings that all cells of a group share; each result has its own in full."""
    flat = [dict(_flattened(result.config)) for result in group.results]
    shared = {
        name: value
        for name, value in (flat[0] if flat else {}).items()
        if all(name in other and other[name] == value for other in flat)
    }
    rows = tuple((name, str(value)) for name, value in shared.items() if value not in (None, ""))
    return tables.Table("Settings that all cells share", ("setting", "value"), rows)


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
