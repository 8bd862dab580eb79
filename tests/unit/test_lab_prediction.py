"""What a dry run told beside what a study measured, of made figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lab_results import rounds, scores, verified
from support.lab_study import study

from fednot.layers import LayerMap, layer_map
from fednot.manifest import Manifest
from lab import results
from lab.cells import Cell, cells_of
from lab.config import read
from lab.dry_run import DryRun, Trial
from lab.models import build
from lab.report.prediction import Compared, Found, agreement, compared, write

MORE = """
[[method]]
name = "not"
id = "long"
rounds = 7

[[method]]
name = "not"
id = "conv2"
layers = "index=1"

[[method]]
name = "not"
id = "pushed"
layers = "index=2"
server_momentum = 0.5
"""
CONV1, CONV2, FC1 = (frozenset({f"{name}.weight"}) for name in ("conv1", "conv2", "fc1"))


@pytest.fixture(scope="module")
def layers() -> LayerMap:
    model = build("cnn-digits", (1, 28, 28), 10)
    return layer_map(Manifest.of(model), model=model, example_input=torch.zeros(1, 1, 28, 28))


def cells(folder: Path) -> dict[str, Cell]:
    return {cell.method.key: cell for cell in cells_of(read(study(folder, more=MORE)))}


def measured(out: Path, cell: Cell, *tests: float, **parts: Any) -> None:
    told = {
        "id": cell.id,
        "cell": cell.description(),
        "config": cell.model_dump(mode="json") | {"digest": cell.digest},
        "scores": scores(0.9, 0.2, tests[-1], 0.5),
        "rounds": rounds(*tests),
    }
    results.write(out, results.of(told | parts))


def ran(cell: Cell, layers: LayerMap, *trials: Trial) -> DryRun:
    return DryRun(cell.base, layers, "made", 10, 20, 1, 0.95, trials)


def trial(name: str, negated: float, recovered: float, restored: float) -> Trial:
    tensor = f"{name}.weight"
    return Trial((name,), (tensor,), (negated, recovered), {tensor: restored})


def test_orders_agree_disagree_or_are_none() -> None:
    assert agreement([1, 2, 3], [10, 20, 90]).coefficient == pytest.approx(1.0)
    assert agreement([1, 2, 3], [3, 2, 1]).coefficient == pytest.approx(-1.0)
    assert agreement([1, 2], [1, 2]).coefficient is None
    assert "only 2" in agreement([1, 2], [1, 2]).why_not
    assert "alike" in agreement([1, 2, 3], [5, 5, 5]).why_not


def test_what_never_arrived_comes_last() -> None:
    """Ranks 1, 2, 3.5, 3.5 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)."""
    found = agreement([1, 2, 3, 4], [4, 5, math.inf, math.inf])
    assert found.coefficient == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_the_longest_recovery_of_the_same_layers_counts(tmp_path: Path, layers: LayerMap) -> None:
    there = cells(tmp_path)
    measured(tmp_path, there["retrain"], 0.5, 0.9)
    measured(tmp_path, there["not"], 0.9, verification=verified("fail", 0.7))
    measured(tmp_path, there["long"], 0.3, 0.9, verification=verified("fail", 0.6, 0.4))
    found = compared(tmp_path, ran(there["not"], layers), list(there.values())).found
    assert found == {CONV1: Found(there["long"].id, 2.0, 0.6)}


def test_only_plain_negation_as_the_study_recovers_counts(tmp_path: Path, layers: LayerMap) -> None:
    there = cells(tmp_path)
    measured(tmp_path, there["pushed"], 0.9)
    measured(tmp_path, there["conv2"], 0.9, config={"digest": "of another configuration"})
    assert not compared(tmp_path, ran(there["not"], layers), list(there.values())).found


def test_an_attempt_that_gave_way_to_another_layer_is_not_taken(
    tmp_path: Path, layers: LayerMap
) -> None:
    there = cells(tmp_path)
    undone_conv1 = verified("fail", 0.7)
    measured(tmp_path, there["conv2"], 0.9, verification=undone_conv1)
    assert not compared(tmp_path, ran(there["not"], layers), list(there.values())).found


def test_without_a_retraining_there_are_no_rounds(tmp_path: Path, layers: LayerMap) -> None:
    there = cells(tmp_path)
    measured(tmp_path, there["not"], 0.9)
    found = compared(tmp_path, ran(there["not"], layers), list(there.values())).found
    assert found == {CONV1: Found(there["not"].id, None, None)}


def test_a_dry_run_that_is_right_about_cost_and_wrong_about_depth(
    tmp_path: Path, layers: LayerMap
) -> None:
    run = ran(
        cells(tmp_path)["not"],
        layers,
        trial("conv1", 0.2, 0.9, 0.1),
        trial("conv2", 0.1, 0.8, 0.2),
        trial("fc1", 0.3, 0.7, 0.3),
    )
    found = Compared(
        run,
        {
            CONV1: Found("a", 2.0, 0.9),
            CONV2: Found("b", 3.0, 0.5),
            FC1: Found("c", math.inf, 0.0),
        },
    )
    assert found.cost.coefficient == pytest.approx(1.0)
    assert found.bare_cost.coefficient == pytest.approx(-0.5)
    assert found.depth.coefficient == pytest.approx(-1.0)
    page, data = write(tmp_path, [found, found], {"commit": "abc"})
    told = json.loads(data.read_text())
    base = told["bases"][0]
    assert base["agreement"]["depth"] == {
        "count": 3,
        "coefficient": pytest.approx(-1.0),
        "why_not": "",
    }
    assert base["choices"][-1]["measured"] == {
        "cell": "c",
        "rounds": None,
        "effect": 0.0,
        "reached": False,
    }
    text = page.read_text()
    assert "| conv1 | 20.00 | 90.00 | 10.00 | 1 | 1 | 2 | 90.00 | a |" in text
    assert "| fc1 | 30.00 | 70.00 | 30.00 | 3 | 3 | never | 0.00 | c |" in text
    assert "| mean | 1.00 | -0.50 | -1.00 |  |" in text
