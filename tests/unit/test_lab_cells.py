"""The cells of a study, their ids and digests, and what is left of them to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.lab_study import STUDY, study

from lab import bases, execution
from lab.cells import Cell, cells_of
from lab.config import ConfigError, read
from lab.engines.engine import LabError
from lab.engines.in_process import InProcess
from lab.plan import Standing, plan_of, standing


def cells(folder: Path, old: str = "", new: str = "", **options: Any) -> list[Cell]:
    return cells_of(read(study(folder, STUDY.replace(old, new) if old else STUDY)), **options)


def done(out: Path, cell: Cell, failure: str = "") -> Path:
    path = execution.path_of(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"config": {"digest": cell.digest}, "failure": failure}))
    return path


def based(out: Path, cell: Cell) -> None:
    folder = bases.folder_of(out, cell.base)
    folder.mkdir(parents=True)
    told = {"digest": cell.base.digest, "flops": {}, "seconds": 1.0}
    (folder / "base.json").write_text(json.dumps(told))


def test_cells_are_the_product_of_what_is_listed(tmp_path: Path) -> None:
    found = cells(tmp_path, 'name = "tiny"', 'name = "tiny"\nseeds = [0, 3]')
    assert [cell.id for cell in found] == [
        "digits-cnn_digits-iid-retrain-s0",
        "digits-cnn_digits-iid-not-s0",
        "digits-cnn_digits-iid-retrain-s3",
        "digits-cnn_digits-iid-not-s3",
    ]
    assert {cell.base.id for cell in found} == {
        "digits-cnn_digits-iid-s0",
        "digits-cnn_digits-iid-s3",
    }


def test_a_retraining_takes_as_many_rounds_as_made_the_base(tmp_path: Path) -> None:
    assert [cell.rounds for cell in cells(tmp_path)] == [2, 1]


@pytest.mark.parametrize("pattern", ["*-not-*", "not"])
def test_only_the_cells_that_fit_are_taken(tmp_path: Path, pattern: str) -> None:
    assert [cell.method.name for cell in cells(tmp_path, only=pattern)] == ["not"]


def test_a_pattern_that_fits_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no cell fits 'pgd'; there are 2, such as digits-cnn"):
        cells(tmp_path, only="pgd")


def test_a_digest_is_of_what_decides_the_result(tmp_path: Path) -> None:
    first = cells(tmp_path)[1]
    assert cells(tmp_path, 'label = "NoT"', 'label = "x"')[1].digest == first.digest
    assert cells(tmp_path, data=Path("/elsewhere"))[1].digest == first.digest
    assert cells(tmp_path, "rounds = 1", "rounds = 3")[1].digest != first.digest
    assert cells(tmp_path, "rounds = 2", "rounds = 3")[1].base.digest != first.base.digest


def test_updates_are_kept_only_for_methods_that_need_them(tmp_path: Path) -> None:
    assert cells(tmp_path)[0].base.keep_updates == 0
    assert cells(tmp_path, 'name = "not"', 'name = "fed-eraser"')[0].base.keep_updates == 1


def test_a_finished_cell_is_not_to_be_run_again(tmp_path: Path) -> None:
    retrain, negation = cells(tmp_path)
    done(tmp_path, retrain)
    plan = plan_of(tmp_path, [retrain, negation])
    assert (plan.done, plan.cells) == ((retrain,), (negation,))
    assert plan.rounds == 2 + 1
    based(tmp_path, retrain)
    assert plan_of(tmp_path, [retrain, negation]).bases == ()


def test_a_failed_or_broken_result_is_made_anew(tmp_path: Path) -> None:
    retrain, negation = cells(tmp_path)
    done(tmp_path, retrain, failure="it burnt")
    done(tmp_path, negation).write_text("{")
    assert standing(tmp_path, retrain) is Standing.FAILED
    assert plan_of(tmp_path, [retrain, negation]).cells == (retrain, negation)


def test_results_of_another_configuration_are_not_mixed(tmp_path: Path) -> None:
    retrain, negation = cells(tmp_path)
    for cell in (retrain, negation):
        done(tmp_path, cell)
    changed = cells(tmp_path, "examples = 50", "examples = 40")
    with pytest.raises(LabError, match=r"holds results of another configuration.*--rerun"):
        plan_of(tmp_path, changed)
    assert plan_of(tmp_path, changed, rerun=True).cells == tuple(changed)


def test_a_base_of_another_configuration_is_told_and_replaced(tmp_path: Path) -> None:
    based(tmp_path, cells(tmp_path)[0])
    changed = cells(tmp_path, "rounds = 2", "rounds = 4")
    with pytest.raises(LabError, match="was trained by another configuration"):
        plan_of(tmp_path, changed)
    plan = plan_of(tmp_path, changed, rerun=True)
    assert [spec.digest for spec in plan.bases] == [changed[0].base.digest]
    assert not bases.folder_of(tmp_path, changed[0].base).exists()


def test_a_failure_is_a_result(tmp_path: Path) -> None:
    cell = cells(tmp_path)[1]
    execution.write_failure(tmp_path, cell, InProcess(), "its base burnt")
    assert standing(tmp_path, cell) is Standing.FAILED
    told = json.loads(execution.path_of(tmp_path, cell).read_text())
    assert (told["id"], told["failure"], told["label"]) == (cell.id, "its base burnt", "NoT")
