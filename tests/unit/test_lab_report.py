"""The files of a report: what they show, of what is there and of what is not."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.lab_results import folder_of, result, rounds, scores, verified

from lab import results
from lab.report import write
from lab.report.groups import study_of
from lab.report.published import beside, published
from lab.report.tables import NONE, accuracy_table, number, percent, quantity
from lab.results import Expected, Folder, Result, ResultError
from lab.scores import Spread

HOSTILE = "NoT <b>|*first*"


def made(**negation: Any) -> list[Result]:
    """Two seeds of three methods, with everything that is measured."""
    found = []
    for seed in (0, 1):
        extras: dict[str, Any] = {
            "before": scores(0.95, 0.95, 0.7, 0.6),
            "costs": {"rounds": 4, "bytes": 4e6, "flops": 5e12, "seconds": 8.5},
            "backdoor": {"before": 0.99, "after": 0.02},
            "relearning": {"accuracies": [0.1, 0.5]},
            "config": {"base": {"seed": seed, "clients": 10}, "data": None},
        }
        found += [
            result(
                "retrain",
                seed,
                scores=scores(0.9, 0.5 + seed / 10, 0.7, 0.5),
                rounds=rounds(0.1, 0.5, 0.69, 0.7),
                verification=verified("pass", 0.01),
                **extras,
            ),
            result(
                "fine-tune",
                seed,
                scores=scores(0.95, 0.9, 0.7, 0.6),
                rounds=rounds(0.7, 0.7),
                verification=verified("fail", 0.9, behaviour="fail"),
                **extras,
            ),
            result(
                HOSTILE,
                seed,
                method="not",
                scores=scores(0.9, 0.55 + seed / 10, 0.7, 0.5),
                rounds=rounds(0.2, 0.7),
                verification=verified("fail", 0.9, 0.8),
                deletions=[{"client": "c1", "backdoors": {"c1": 0.03}, "method": "not"}],
                **{**extras, **negation},
            ),
        ]
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report of everything."""
    folder = folder_of(tmp_path_factory.mktemp("study"), made())
    write(folder)
    return folder


def tables_of(text: str) -> dict[str, list[list[str]]]:
    """The tables of a Markdown page by their titles, header first."""
    found = {}
    for part in text.split("\n### ")[1:]:
        title, *lines = part.splitlines()
        rows = [line for line in lines if line.startswith("| ")]
        split = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
        found[title] = [[cell.strip() for cell in row] for row in split]
    return found


def test_the_papers_table(written: Path) -> None:
    """Forget of seed 0: .55 against .5, of seed 1: .65 against .6: gaps of 5, average 1.25."""
    rows = tables_of((written / "report.md").read_text())["Accuracy and membership inference"]
    assert rows[0][:6] == ["method", "seeds", "retain", "forget", "test", "MIA"]
    assert [row[0] for row in rows[2:]] == [
        "before the deletion",
        "retrain",
        "fine-tune",
        r"NoT \<b\>\|\*first\*",
    ]
    assert rows[-1] == [
        r"NoT \<b\>\|\*first\*",
        "2",
        "90.00 ± 0.00 (0.00)",
        "60.00 ± 7.07 (5.00)",
        "70.00 ± 0.00 (0.00)",
        "50.00 ± 0.00 (0.00)",
        "1.25 ± 0.00",
        NONE,
    ]


def test_every_table_is_there_and_square(written: Path) -> None:
    found = tables_of((written / "report.md").read_text())
    assert [title for title in found if not title.startswith("Published")] == [
        "Accuracy and membership inference",
        "Costs of the whole unlearning",
        "Costs to the same test accuracy",
        "Backdoor of the forgotten client",
        "Verification",
        "Undo attack",
        "Relearning",
        "Deletions in a row",
        "Frontier of recovery cost against depth",
        "Settings that all cells share",
    ]
    for title, rows in found.items():
        assert len({len(row) for row in rows}) == 1, title
    spent = found["Costs of the whole unlearning"][2]
    assert spent[2:5] == ["4.00 ± 0.00 MB", "5.00 ± 0.00 T", "8.50 ± 0.00 s"]
    reached = found["Costs to the same test accuracy"][-1]
    assert reached[1:3] == ["2 of 2", "2.0 ± 0.0 (0.67 ± 0.00)"]
    assert found["Settings that all cells share"][2:] == [["base.clients", "10"]]
    assert found["Verification"][-1][1:3] == ["2 pass", "2 fail"]


def test_the_page_needs_nothing_else_and_escapes(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert "NoT &lt;b&gt;|*first*" in page
    assert "<b>" not in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    uris = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    assert len(uris) == 3
    plots = sorted(path.read_text() for path in (written / "plots").glob("*.svg"))
    assert sorted(base64.b64decode(uri).decode() for uri in uris) == plots


def test_the_plots_stand_in_the_text(written: Path) -> None:
    named = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (written / "report.md").read_text())
    assert named == [
        "plots/cifar10-cnn-iid-test.svg",
        "plots/cifar10-cnn-iid-forget.svg",
        "plots/cifar10-cnn-iid-frontier.svg",
    ]
    assert "fine-tune" in (written / named[0]).read_text()


def test_the_same_results_give_the_same_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, made())
    write(folder)
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first


def test_the_summary_has_the_figures(written: Path) -> None:
    found = json.loads((written / "summary.json").read_text())
    (group,) = found["groups"]
    negated = group["methods"][HOSTILE]
    assert negated["average_gap"]["mean"] == pytest.approx(0.0125)
    assert negated["average_gap"]["values"] == pytest.approx([0.0125, 0.0125])
    assert negated["ratios"]["bytes"]["mean"] == pytest.approx(2 / 3)
    assert negated["worst_undone"]["mean"] == 0.9
    assert negated["passes"] is False
    assert group["methods"]["retrain"]["passes"] is True
    assert {row["method"] for row in group["published"][0]["row"]} >= {"retrain", "not"}
    assert found["troubles"] == []


def test_what_is_lacking_stands_first_and_in_its_row(tmp_path: Path) -> None:
    found = [one for one in made() if (one.name, one.cell.seed) != (HOSTILE, 1)]
    folder = folder_of(tmp_path, [*found, result("PGD", 0, method="pgd", failure="NaN in round 2")])
    (folder / "cells" / "torn.json").write_text('{"format": 1')
    cell = result("FUKD", 0, method="fukd").cell
    results.write_expected(folder, [Expected(id="fukd", label="FUKD", cell=cell)])
    assert write(folder).lacking == 6
    text = (folder / "report.md").read_text()
    told = tables_of(text)
    rows = [row[1:] for row in told["Cells that failed or are missing"][2:]]
    assert sorted(kind for kind, _ in rows) == ["failed", *["missing"] * 4, "unreadable"]
    assert any("NaN in round 2" in why for _, why in rows)
    assert any("torn.json is cut short" in why for _, why in rows)
    seeds = {row[0]: row[1] for row in told["Accuracy and membership inference"]}
    assert seeds["PGD"] == "0 (1 failed, 1 missing)"
    assert seeds["FUKD"] == "0 (2 missing)"
    assert seeds[r"NoT \<b\>\|\*first\*"] == "1 (1 missing)"
    assert "5 cells were measured; 6 failed or are missing." in text
    assert text.index("Cells that failed") < text.index("Accuracy and membership")
    assert "NaN in round 2" in (folder / "report.html").read_text()


def test_without_a_retraining_the_report_says_so(tmp_path: Path) -> None:
    write(folder_of(tmp_path, [one for one in made() if one.cell.method != "retrain"]))
    text = (tmp_path / "report.md").read_text()
    assert "There is no retraining here" in text
    assert tables_of(text)["Accuracy and membership inference"][-1][6] == NONE


def test_a_seed_without_a_retraining_is_named(tmp_path: Path) -> None:
    found = [one for one in made() if (one.cell.method, one.cell.seed) != ("retrain", 1)]
    write(folder_of(tmp_path, found))
    assert (
        "Without a retraining, and so without gaps: seed 1." in (tmp_path / "report.md").read_text()
    )


def test_wall_times_of_two_machines_are_not_to_be_compared(tmp_path: Path) -> None:
    elsewhere = result("retrain", 2, provenance={"machine": "a faster one"})
    write(folder_of(tmp_path, [*made(), elsewhere]))
    text = (tmp_path / "report.md").read_text()
    assert "do not compare wall times" in text
    assert "machine: a faster one, two cores" in text


def test_results_without_rounds_have_no_plots(tmp_path: Path) -> None:
    write(folder_of(tmp_path, [result("retrain")]))
    assert list((tmp_path / "plots").iterdir()) == []


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="python -m lab run"):
        write(tmp_path)


def test_published_gaps_agree_with_their_figures() -> None:
    """The mean of the four distances to the published retraining is the published average gap."""
    checked = 0
    for setting in published():
        retrain = next((row for row in setting.row if row.method == "retrain"), None)
        for row in setting.row:
            gaps = list(row.gaps.values())
            if retrain is not None and row.retain is not None:
                names = ("retain", "forget", "test", "mia")
                gaps = [abs(getattr(row, n) - getattr(retrain, n)) for n in names]
            if gaps:
                assert sum(gaps) / 4 == pytest.approx(row.average_gap, abs=0.02), row
                checked += 1
    assert checked == 24


def test_published_figures_stand_beside_what_they_are_of() -> None:
    assert [one.row[-1].average_gap for one in beside("cifar10", "cnn", "iid")] == [0.29]
    assert [one.row[-1].average_gap for one in beside("caltech101", "vit", "dirichlet_0_1")] == [
        0.86
    ]
    assert len(beside("cifar100", "resnet18", "iid")) == 2
    assert beside("digits", "cnn", "iid") == ()
    assert beside("cifar10", "cnn", "dirichlet_0_1") == ()


def test_published_tables_are_marked(written: Path) -> None:
    text = (written / "report.md").read_text()
    rows = next(t for name, t in tables_of(text).items() if name.startswith("Published: NoT"))
    assert [row[0] for row in rows[2:]] == [
        "retrain (published)",
        "fine-tune (published)",
        "mode (published)",
        "not (published)",
    ]
    assert "Not measured here. Known from: a secondary note" in text


def test_how_numbers_are_written() -> None:
    two = Spread.of([0.5, 0.6])
    assert percent(two) == "55.00 ± 7.07"
    assert percent(Spread.of([0.5])) == "50.00"
    assert percent(None) == NONE
    assert number(Spread.of([3.0, 4.0])) == "3.5 ± 0.7"
    assert quantity(Spread.of([1.5e6, 2.5e6]), "B") == "2.00 ± 0.71 MB"
    assert quantity(Spread.of([7.0]), "") == "7.00"
    assert quantity(Spread.of([7200.0]), "s") == "7200.00 s"


def test_an_empty_group_has_rows_without_figures() -> None:
    study = study_of(Folder((result("retrain", failure="no disk"),)))
    assert accuracy_table([], {}).rows == ()
    assert [trouble.kind for trouble in study.troubles] == ["failed"]
