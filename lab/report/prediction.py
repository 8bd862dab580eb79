"""Whether a dry run predicts what the study measured: the same layers side by side, and how far
their orders agree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fednot.errors import FednotError
from fednot.layers import LayerMap, choose
from fednot.whole_file import write_whole
from lab import results
from lab.cells import Cell
from lab.dry_run import TEMPERATURE, DryRun, Trial, in_order, ranks
from lab.plan import Standing, standing
from lab.report import costs, depth
from lab.report.pages import Page, Section, markdown
from lab.report.tables import NONE, Table
from lab.results import Result
from server.verification.undoing import undone_name

FORMAT: Final = 1
FEWEST: Final = 3
"""Choices below which an order says nothing."""

Tensors = frozenset[str]


@dataclass(frozen=True)
class Found:
    """What a cell measured of a choice. `rounds` to retraining's test accuracy is infinite if it
    never got there, None without a retraining; `effect` is the worst one, undone or not.
    """

    cell: str
    rounds: float | None
    effect: float | None


@dataclass(frozen=True)
class Agreement:
    """Spearman's coefficient of two orders of `count` choices: 1 if the dry run has the very order
    of the study, -1 for the reverse. None if there is none, and `why_not` says why.
    """

    count: int
    coefficient: float | None
    why_not: str = ""


@dataclass(frozen=True)
class Compared:
    """A dry run with what the study measured of its choices, by their tensors."""

    run: DryRun
    found: Mapping[Tensors, Found]

    @property
    def cost(self) -> Agreement:
        """Of the accuracy after the passes, the higher the better, with the rounds."""
        return self._agreement(lambda trial: -trial.recovered, lambda found: found.rounds)

    @property
    def bare_cost(self) -> Agreement:
        """Of the accuracy right after negation, which takes no passes, with the rounds: what the
        passes have to be better than.
        """
        return self._agreement(lambda trial: -trial.accuracies[0], lambda found: found.rounds)

    @property
    def depth(self) -> Agreement:
        """Of the accuracy after undoing with the worst effect."""
        return self._agreement(lambda trial: trial.restored, lambda found: found.effect)

    def of(self, trial: Trial) -> Found | None:
        """What was measured of a choice, if anything."""
        return self.found.get(frozenset(trial.tensors))

    def _agreement(
        self, told: Callable[[Trial], float], measured: Callable[[Found], float | None]
    ) -> Agreement:
        pairs = [
            (told(trial), value)
            for trial in self.run.trials
            if (found := self.of(trial)) is not None and (value := measured(found)) is not None
        ]
        return agreement([one for one, _ in pairs], [other for _, other in pairs])


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """How far two orders agree (Spearman 1904). Infinity comes last, equals share a rank."""
    count = len(predicted)
    if count < FEWEST:
        return Agreement(count, None, f"only {count} of the choices were measured")
    if len(set(predicted)) == 1 or len(set(measured)) == 1:
        return Agreement(count, None, "all are alike, so there is no order")
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    return Agreement(count, float(spearmanr(ranks(predicted), ranks(measured)).statistic))


def compared(out: Path, run: DryRun, cells: Sequence[Cell]) -> Compared:
    """Looks for the choices of a dry run among the finished cells of its base.

    Only the method `not` counts, with recovery as the study has it; of several cells of the same
    layers the one of most rounds. Raises lab.results.ResultError.
    """
    mine = [cell for cell in cells if cell.base.id == run.spec.id]
    done = [cell for cell in mine if standing(out, cell) is Standing.DONE]
    retrain = next((_read(out, cell) for cell in done if cell.method.name == "retrain"), None)
    found: dict[Tensors, Found] = {}
    for cell in sorted(filter(_is_plain, done), key=lambda cell: cell.rounds):
        tensors = _tensors(run.layers, cell.method.layers)
        result = _read(out, cell)
        if tensors and _is_of(result, tensors):
            found[frozenset(tensors)] = _found(result, retrain)
    return Compared(run, found)


def write(out: Path, every: Sequence[Compared], provenance: Mapping[str, Any]) -> tuple[Path, Path]:
    """Writes dry-run.md and dry-run.json. Raises OSError."""
    page, data = out / "dry-run.md", out / "dry-run.json"
    told = {"format": FORMAT, "margin": costs.MARGIN, "provenance": dict(provenance)}
    rows = {"bases": [_row(one) for one in every]}
    write_whole(data, json.dumps(told | rows, indent=1, allow_nan=False) + "\n")
    write_whole(page, markdown(page_of(every, provenance)))
    return page, data


def page_of(every: Sequence[Compared], provenance: Mapping[str, Any]) -> Page:
    """The page: how far the orders agree, then the choices of each base."""
    told = tuple(f"{name}: {value}" for name, value in provenance.items())
    sections = [
        Section("Does it predict?", tuple(_warnings(every)), (agreement_table(every),)),
        *(Section(one.run.spec.id, (_how(one.run),), (choice_table(one),)) for one in every),
    ]
    return Page("Dry run of layer choices", told, tuple(sections))


def agreement_table(every: Sequence[Compared]) -> Table:
    """The coefficients of each base, and their means over those that have one."""
    orders = [[one.cost, one.bare_cost, one.depth] for one in every]
    rows = [
        (one.run.spec.id, *(_shown(found) for found in three), _counts(three))
        for one, three in zip(every, orders, strict=True)
    ]
    if len(every) > 1:
        rows.append(("mean", *(_mean(column) for column in zip(*orders, strict=True)), ""))
    return Table(
        "Agreement with the study",
        ("base", "cost", "cost without passes", "depth", "choices"),
        tuple(rows),
        "Spearman's rank correlation. Cost: the accuracy after the passes, or right after negation "
        "without any, with the rounds to retraining's test accuracy. Depth: the best accuracy "
        "after undoing with the worst effect, undone or not. 1: the dry run has the study's "
        "order; 0: it tells nothing; below 0: it tells the wrong thing. By chance alone it is 0.8 "
        "or more once in 6 times among four choices, once in 15 among five, once in 34 among six.",
    )


def choice_table(one: Compared) -> Table:
    """The choices of a base, the most promising first, beside what the study measured."""
    rows = tuple(
        (
            ", ".join(trial.layers),
            _percent(trial.accuracies[0]),
            _percent(trial.recovered),
            _percent(trial.restored),
            f"{cost:g}",
            f"{deep:g}",
            *_measured(one.of(trial)),
        )
        for trial, cost, deep in in_order(one.run.trials)
    )
    return Table(
        "Choices",
        (
            "layers",
            "negated",
            "recovered",
            "undone",
            "rank by cost",
            "rank by depth",
            "measured: rounds",
            "measured: worst effect",
            "in cell",
        ),
        rows,
        "Test accuracy in per cent: right after negation, after the passes, and the best that "
        "undoing gives. The order is that of the sum of both ranks.",
    )


def _is_plain(cell: Cell) -> bool:
    method = cell.method
    changed = method.server_momentum or method.learning_rate is not None or method.config
    return method.name == "not" and not changed


def _tensors(layers: LayerMap, selector: str) -> tuple[str, ...]:
    try:
        return choose(layers, selector, allow_unsafe=True).tensors
    except FednotError:
        return ()


def _is_of(result: Result, tensors: Sequence[str]) -> bool:
    """Whether it is of these tensors: an attempt at chance may have given way to another layer."""
    findings = result.verification.findings if result.verification else ()
    undone = [finding.name for finding in findings if finding.undone]
    return not undone or undone_name(", ".join(tensors)) in undone


def _found(result: Result, retrain: Result | None) -> Found:
    rounds: float | None = None
    if retrain is not None:
        until = costs.reached(result, retrain, costs.MARGIN)
        rounds = math.inf if until is None else costs.paid(result, until)["rounds"]
    worst = depth.worst(result, retrain)
    return Found(result.id, rounds, None if worst is None else worst.value)


def _read(out: Path, cell: Cell) -> Result:
    return results.read(results.path_of(out, cell.id))


def _row(one: Compared) -> dict[str, Any]:
    run = one.run
    return {
        "id": run.spec.id,
        "distilled_on": run.source,
        "samples": run.samples,
        "measured_on": run.measured_on,
        "passes": run.passes,
        "temperature": TEMPERATURE,
        "accuracy": run.accuracy,
        "agreement": {
            "cost": asdict(one.cost),
            "cost_without_passes": asdict(one.bare_cost),
            "depth": asdict(one.depth),
        },
        "choices": [
            asdict(trial)
            | {"recovered": trial.recovered, "restored": trial.restored}
            | {"cost_rank": cost, "depth_rank": deep, "measured": _plain(one.of(trial))}
            for trial, cost, deep in in_order(run.trials)
        ],
    }


def _plain(found: Found | None) -> dict[str, Any] | None:
    """As JSON has it, which has no infinity: `reached` says which null is one."""
    if found is None:
        return None
    reached = None if found.rounds is None else math.isfinite(found.rounds)
    return asdict(found) | {"rounds": found.rounds if reached else None, "reached": reached}


def _warnings(every: Sequence[Compared]) -> Iterator[str]:
    for one in every:
        for what, found in (("cost", one.cost), ("depth", one.depth)):
            if found.why_not:
                yield f"{one.run.spec.id}, {what}: {found.why_not}."


def _how(run: DryRun) -> str:
    return (
        f"{run.passes} passes over {run.samples} samples ({run.source}), without their labels; "
        f"measured on {run.measured_on} test samples, of which the base answers "
        f"{_percent(run.accuracy)} % right."
    )


def _shown(found: Agreement) -> str:
    return NONE if found.coefficient is None else f"{found.coefficient:.2f}"


def _counts(found: Sequence[Agreement]) -> str:
    counts = sorted({one.count for one in found})
    return " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))


def _mean(found: Sequence[Agreement]) -> str:
    known = [one.coefficient for one in found if one.coefficient is not None]
    return f"{sum(known) / len(known):.2f}" if known else NONE


def _measured(found: Found | None) -> tuple[str, str, str]:
    if found is None:
        return NONE, NONE, NONE
    rounds = NONE if found.rounds is None else f"{found.rounds:g}"
    return (
        "never" if rounds == "inf" else rounds,
        NONE if found.effect is None else _percent(found.effect),
        found.cell,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
