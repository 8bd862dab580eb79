"""What is written of a cell is what is read; other files are refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab import results
from lab.results import Expected, Result, ResultError


def made(cell_id: str = "digits-cnn-iid-not-s0", **more: Any) -> dict[str, Any]:
    """A result as the plan has it, with some parts left out or null."""
    return {
        "format": 1,
        "id": cell_id,
        "label": "NoT, first layer",
        "cell": {
            "dataset": "digits",
            "model": "cnn",
            "partition": "iid",
            "method": "not",
            "label": "NoT, first layer",
            "seed": 0,
        },
        "provenance": {"commit": "abc", "threads": 1},
        "scores": {"retain": 0.9, "forget": 0.7, "test": 0.7, "mia": 0.5, "mia_confidence": None},
        "rounds": [{"number": 1, "phase": "recovery", "test": 0.3, "backdoor": None, "bytes": 12}],
        "verification": {
            "behaviour": "pass",
            "depth": "fail",
            "findings": [{"name": "undone: a", "rounds": 2, "figures": {"auc": 0.5}}],
        },
        **more,
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    result = results.of(made())
    path = results.write(tmp_path, result)
    assert path == tmp_path / "cells" / "digits-cnn-iid-not-s0.json"
    assert results.read(path) == result
    assert results.load(tmp_path).results == (result,)
    assert result.name == "NoT, first layer"
    assert result.verification is not None
    assert result.verification.findings[0].undone


def test_a_dot_in_an_id_stays(tmp_path: Path) -> None:
    path = results.write(tmp_path, results.of(made("dirichlet-0.1-s0")))
    assert path.name == "dirichlet-0.1-s0.json"
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_what_another_version_adds_is_kept(tmp_path: Path) -> None:
    path = results.write(tmp_path, results.of(made(weather={"sun": True})))
    assert json.loads(path.read_text())["weather"] == {"sun": True}


def test_a_name_falls_back_to_the_method() -> None:
    found = made(label="")
    found["cell"]["label"] = ""
    assert results.of(found).name == "not"


def test_a_failed_cell_needs_no_scores() -> None:
    assert results.of(made(scores=None, failure="out of memory")).failure == "out of memory"
    with pytest.raises(ResultError, match="neither scores nor a failure"):
        results.of(made(scores=None))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"cell": {}}, "cell.dataset: Field required.*and 2 more"),
        ({"rounds": [{"number": "x", "phase": "recovery"}]}, "rounds.0.number: Input should be"),
        ({"scores": {"test": float("nan")}}, "scores.test: Input should be a finite number"),
        ({"relearning": {"accuracies": []}}, "relearning.accuracies: .*at least 1 item"),
    ],
)
def test_a_result_of_another_shape_is_told_where(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ResultError, match=told):
        results.of(made(**change))


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    path = results.write(tmp_path, results.of(made()))
    path.write_text(path.read_text()[:100])
    with pytest.raises(ResultError, match=r"cut short or no JSON.*run the cell again"):
        results.read(path)


def test_a_foreign_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "package.json"
    path.write_text('{"name": "leftpad"}')
    with pytest.raises(ResultError, match="no result of a lab cell: id: Field required"):
        results.read(path)


def test_a_renamed_file_is_told(tmp_path: Path) -> None:
    path = results.write(tmp_path, results.of(made()))
    with pytest.raises(ResultError, match="was it renamed"):
        results.read(path.rename(path.with_name("other.json")))


def test_files_that_cannot_be_read_are_named_and_others_are_loaded(tmp_path: Path) -> None:
    results.write(tmp_path, results.of(made("one")))
    (tmp_path / "cells" / "two.json").write_text("{")
    (tmp_path / "cells" / "three.draft").write_text("{")
    found = results.load(tmp_path)
    assert [result.id for result in found.results] == ["one"]
    assert len(found.unreadable) == 1
    assert "two.json is cut short" in found.unreadable[0]


def test_the_cells_to_be_run_are_known(tmp_path: Path) -> None:
    result = Result.model_validate(made())
    expected = (Expected(id="one", cell=result.cell), Expected(id="two", cell=result.cell))
    results.write_expected(tmp_path, expected)
    assert results.load(tmp_path).expected == expected
    (tmp_path / "expected.json").write_text("[]")
    assert "no list of cells" in results.load(tmp_path).unreadable[0]


@pytest.mark.parametrize("cell_id", ["", "../x", "a/b", ".hidden", "a\\b"])
def test_an_id_that_is_no_file_name_is_refused(tmp_path: Path, cell_id: str) -> None:
    with pytest.raises(ResultError, match="is no file name"):
        results.write(tmp_path, results.of(made(cell_id)))


def test_a_folder_without_cells_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="python -m lab run"):
        results.load(tmp_path)
