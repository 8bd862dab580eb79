"""The tables of a report, as text: what is shown, and how a number is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lab.membership.study import LiraResult
from lab.report.frontier import Point
from lab.report.groups import Trouble
from lab.report.measures import Measured, Spreads, Step, Undone
from lab.report.published import PublishedRow, PublishedSetting
from lab.scores import FOUR, Spread

NONE: Final = "\N{EN DASH}"
PREFIXES: Final = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
FIGURES: Final = ("trigger_success", "trigger_effect", "accuracy_forgotten", "auc", "loss_attack")


@dataclass(frozen=True)
class Table:
    """Header and rows of equal length; `note` says how it is to be read."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


Column = tuple[str, Callable[[Measured], str]]


def accuracy_table(measured: Sequence[Measured], before: Spreads) -> Table:
    """The paper's table: the four figures with their gaps, and the average gap."""
    first = ("before the deletion", NONE, *(percent(before.get(name)) for name in FOUR), NONE)
    rows = [(*first, percent(before.get("mia_confidence")))] if before else []
    rows += [
        (
            one.name,
            _seeds(one),
            *(_with_gap(one, name) for name in FOUR),
            percent(one.average_gap),
            percent(one.scores.get("mia_confidence")),
        )
        for one in measured
    ]
    return Table(
        "Accuracy and membership inference",
        ("method", "seeds", "retain", "forget", "test", "MIA", "average gap", "MIA-efficacy"),
        tuple(rows),
        "In per cent, mean ± sample deviation over seeds; in brackets the gap to the retraining of "
        "the same seed. MIA is the balanced attack: 50 is guessing. The average gap is the mean of "
        "the four. MIA-efficacy, the share that the confidence attack takes for non-members, "
        "counts for no gap.",
    )


def published_table(found: PublishedSetting) -> Table:
    """What others report."""
    rows = tuple(
        (
            f"{row.method} (published)",
            *(_published(row, name) for name in FOUR),
            NONE if row.average_gap is None else f"{row.average_gap:.2f}",
        )
        for row in found.row
    )
    return Table(
        f"Published: {found.title}",
        ("method", "retain", "forget", "test", "MIA", "average gap"),
        rows,
        f"Not measured here. Known from: {found.confidence}. MIA: {found.mia}. In brackets: gaps.",
    )


def cost_table(measured: Sequence[Measured]) -> Table:
    """What all of the unlearning cost."""
    columns: list[Column] = [
        ("rounds", lambda one: number(one.costs.get("rounds"))),
        ("bytes moved", lambda one: quantity(one.costs.get("bytes"), "B")),
        ("FLOPs", lambda one: quantity(one.costs.get("flops"), "")),
        ("wall time", lambda one: quantity(one.costs.get("seconds"), "s")),
        ("storage", lambda one: quantity(one.costs.get("storage_bytes"), "B")),
        ("of it history", lambda one: quantity(one.costs.get("history_bytes"), "B")),
    ]
    return _table(
        "Costs of the whole unlearning",
        measured,
        columns,
        "From the deletion to the end of the budget; the training before it counts for nothing.",
    )


def target_table(measured: Sequence[Measured], margin: float) -> Table:
    """What it cost to be as good as retraining on test data."""
    columns: list[Column] = [
        ("reached in seeds", lambda one: f"{one.reached} of {len(one.seeds)}"),
        ("rounds", lambda one: _with_share(one, "rounds", number)),
        ("bytes moved", lambda one: _with_share(one, "bytes", lambda s: quantity(s, "B"))),
        ("FLOPs", lambda one: _with_share(one, "flops", lambda s: quantity(s, ""))),
        ("wall time", lambda one: _with_share(one, "seconds", lambda s: quantity(s, "s"))),
        ("gap there", lambda one: percent(one.gap_at_target)),
    ]
    return _table(
        "Costs to the same test accuracy",
        measured,
        columns,
        f"To the first recovery round whose test accuracy is retraining's last one less "
        f"{100 * margin:g} points, over the seeds in which there was one. In brackets the share of "
        "what retraining took to the same mark. The gap there, in points: the mean distance of "
        "retain, forget and test accuracy after that round to those after retraining's last one.",
    )


def backdoor_table(measured: Sequence[Measured]) -> Table:
    """How well the forgotten client's trigger works."""
    return _table(
        "Backdoor of the forgotten client",
        [one for one in measured if one.backdoor],
        [
            ("before", lambda one: percent(one.backdoor.get("before"))),
            ("after", lambda one: percent(one.backdoor.get("after"))),
        ],
        "The share of triggered images that is answered with the trigger's class, in per cent.",
    )


def verdict_table(measured: Sequence[Measured]) -> Table:
    """The verdicts, and the worst that the undo attack brought back."""
    return _table(
        "Verification",
        [one for one in measured if one.depth],
        [
            ("behaviour", lambda one: _counts(one.behaviour)),
            ("depth", lambda one: _counts(one.depth)),
            ("worst effect", lambda one: percent(one.worst_undone)),
            ("by", lambda one: one.worst_kind or NONE),
        ],
        "Verdicts by number of seeds. The worst effect of the model as it stands and of those that "
        "undoing makes of it: by how much a trigger raises the share of its "
        "class (trigger); without a backdoor, by how much better the forgotten samples are "
        "answered than by the retraining of the same seed (forget). In points.",
    )


def undo_table(measured: Sequence[Measured]) -> Table:
    """Every model that verification looked at."""
    rows = tuple(
        (one.name, found.model, str(found.rounds), *(_figure(found, name) for name in FIGURES))
        for one in measured
        for found in one.looked_at
    )
    return Table(
        "Undo attack",
        ("method", "model", "rounds after", *(name.replace("_", " ") for name in FIGURES)),
        rows,
        "The recovered model, and what undoing the method makes of it, right after and after "
        "rounds on retained data. In per cent; docs/verification.md explains each figure.",
    )


def relearning_table(measured: Sequence[Measured]) -> Table:
    """How fast the forgotten is relearned."""
    return _table(
        "Relearning",
        [one for one in measured if one.relearning],
        [
            ("at first", lambda one: percent(one.relearning.get("first"))),
            ("at last", lambda one: percent(one.relearning.get("last"))),
            ("mean over passes", lambda one: percent(one.relearning.get("area"))),
            ("advantage", lambda one: percent(one.relearning.get("advantage"))),
        ],
        "Accuracy on forgotten samples that are not shown, over passes over a few that are. The "
        "advantage, in points, is over the retraining of the same seed, which never saw them.",
    )


def deletion_table(measured: Sequence[Measured]) -> Table:
    """Several deletions in a row."""
    rows = tuple((one.name, *_step(step)) for one in measured for step in one.deletions)
    return Table(
        "Deletions in a row",
        ("method", "deletion", "done", "retain", "test", "own backdoor", "worst earlier", "others"),
        rows,
        "After each deletion, in per cent: the backdoor of the client just deleted, the worst of "
        "those deleted before it, and the mean of those who stay.",
    )


def frontier_table(points: Sequence[Point]) -> Table:
    """The points of the frontier, and the methods that have no place on it."""
    rows = tuple(
        (
            point.name,
            NONE if point.rounds is None else f"{point.rounds:.1f}",
            NONE if point.ratio is None else f"{point.ratio:.2f}",
            NONE if point.effect is None else f"{100 * point.effect:.2f}",
            {True: "pass", False: "fail", None: "not known"}[point.passes],
            "yes" if point.best else (f"no place: {point.why_not}" if point.why_not else "no"),
        )
        for point in points
    )
    return Table(
        "Frontier of recovery cost against depth",
        ("method", "rounds", "of retraining's", "worst effect", "both verdicts", "best"),
        rows,
        "Rounds to retraining's test accuracy; the worst effect as in the table of verification. "
        "Best: no other is as good in both and better in one. Both verdicts: pass if in every "
        "seed, not known if one was not possible and none failed.",
    )


def lira_table(found: LiraResult) -> Table:
    """Per-example attacks on learned and unlearned examples."""
    rows = tuple(
        (
            one.name,
            *(
                f"{100 * share:.2f}"
                for share in (
                    one.balanced_accuracy,
                    one.auc,
                    one.tpr_at_1_percent_fpr,
                    one.loss_attack,
                )
            ),
        )
        for one in found.attacked
    )
    return Table(
        "LiRA on examples that were unlearned against such that were never seen",
        ("model", "balanced accuracy", "AUC", "TPR at 1 % FPR", "one rule for all"),
        rows,
        f"In per cent; 50, 50, 1 and 50 are guessing. {found.models} models of one machine each, "
        f"no federation, on the embedded digits: {found.retained} retained samples and half of "
        f"{found.candidates} candidates, {found.epochs} epochs and {found.recovery} of recovery, "
        f"seed {found.seed}. Each model is attacked with all others but its partner.",
    )


def trouble_table(troubles: Sequence[Trouble]) -> Table:
    """What is missing in the tables."""
    rows = tuple((one.cell, one.kind, one.reason) for one in troubles)
    return Table("Cells that failed or are missing", ("cell", "what", "why"), rows)


def percent(spread: Spread | None) -> str:
    """A share in per cent, mean ± deviation."""
    if spread is None:
        return NONE
    mean = f"{100 * spread.mean:.2f}"
    return mean if spread.deviation is None else f"{mean} ± {100 * spread.deviation:.2f}"


def number(spread: Spread | None) -> str:
    """A plain number, mean ± deviation."""
    if spread is None:
        return NONE
    mean = f"{spread.mean:.1f}"
    return mean if spread.deviation is None else f"{mean} ± {spread.deviation:.1f}"


def quantity(spread: Spread | None, unit: str) -> str:
    """A quantity with the prefix that its mean needs, mean ± deviation."""
    if spread is None:
        return NONE
    fitting = ((size, name) for size, name in PREFIXES if abs(spread.mean) >= size and unit != "s")
    size, prefix = next(fitting, (1.0, ""))
    mean = f"{spread.mean / size:.2f}"
    deviation = "" if spread.deviation is None else f" ± {spread.deviation / size:.2f}"
    return f"{mean}{deviation} {prefix}{unit}".rstrip()


def _table(title: str, measured: Sequence[Measured], columns: Sequence[Column], note: str) -> Table:
    header = ("method", *(name for name, _ in columns))
    rows = tuple((one.name, *(shown(one) for _, shown in columns)) for one in measured)
    return Table(title, header, rows, note)


def _seeds(one: Measured) -> str:
    lacking = [f"{len(one.failed)} failed"] if one.failed else []
    lacking += [f"{len(one.missing)} missing"] if one.missing else []
    return f"{len(one.seeds)} ({', '.join(lacking)})" if lacking else str(len(one.seeds))


def _with_gap(one: Measured, name: str) -> str:
    gap = one.gaps.get(name)
    shown = percent(one.scores.get(name))
    return shown if gap is None else f"{shown} ({100 * gap.mean:.2f})"


def _with_share(one: Measured, name: str, shown: Callable[[Spread | None], str]) -> str:
    share = one.ratios.get(name)
    text = shown(one.to_target.get(name))
    return text if share is None else f"{text} ({number_of(share)})"


def number_of(share: Spread) -> str:
    """A ratio, mean ± deviation."""
    mean = f"{share.mean:.2f}"
    return mean if share.deviation is None else f"{mean} ± {share.deviation:.2f}"


def _published(row: PublishedRow, name: str) -> str:
    value, gap = getattr(row, name), row.gaps.get(name)
    if value is not None:
        return f"{value:.2f}"
    return NONE if gap is None else f"({gap:.2f})"


def _counts(verdicts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())) or NONE


def _figure(found: Undone, name: str) -> str:
    return percent(found.figures.get(name))


def _step(step: Step) -> tuple[str, ...]:
    shown = (
        step.scores.get("retain"),
        step.scores.get("test"),
        step.own,
        step.earlier,
        step.others,
    )
    return (str(step.number), " or ".join(step.methods), *(percent(each) for each in shown))
