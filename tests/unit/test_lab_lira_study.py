"""The per-example study: what shadow models are trained on, and what the table says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.lab_results import folder_of, result
from torch import nn

from fednot.data.in_memory import InMemoryDataset
from fednot.errors import FednotError
from fednot.task import SampleDataset, Task
from fednot.training import TrainContext, TrainResult
from lab.membership import study
from lab.membership.__main__ import main
from lab.membership.unlearner import BEFORE, Course, Unlearner
from lab.report import write
from lab.results import ResultError


class Noted(Task):
    """Trains not at all but for a step of one, and notes on which samples and how long."""

    def __init__(self) -> None:
        self.trained: list[tuple[set[str], float]] = []

    def build_model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        ids = {data.sample_id(index) for index in range(len(data))}
        self.trained.append((ids, context.config["local_epochs"]))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        return TrainResult(len(data))


def samples(name: str, size: int) -> InMemoryDataset:
    ids = [f"{name}{index}" for index in range(size)]
    return InMemoryDataset(torch.eye(2).repeat(size, 1)[:size], torch.zeros(size), ids)


def unlearner(task: Task, *methods: str) -> Unlearner:
    return Unlearner(task, samples("kept", 3), samples("pool", 4), methods, Course(7, 2, "all"))


def test_the_chosen_are_learned_and_then_only_the_retained() -> None:
    task = Noted()
    found = unlearner(task, "not", "retrain")([1, 3], 5)
    kept = {"kept0", "kept1", "kept2"}
    assert task.trained == [(kept | {"pool1", "pool3"}, 7), (kept, 2), (kept, 7)]
    assert set(found) == {BEFORE, "not", "not, undone", "retrain"}
    assert all(logits.shape == (4, 2) for logits in found.values())


def test_a_negated_and_retrained_model_by_hand() -> None:
    """Training adds one to each weight. Undone NoT of w: -(-(w + 1) + 1) = w; biases b + 2.

    Sample 0 is (1, 0), so its logits are w[:, 0] + b. Retraining adds one, as before the deletion.
    """
    found = unlearner(Noted(), "not", "retrain")([0], 5)
    before, negated = found[BEFORE][0], found["not"][0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        fresh = nn.Linear(2, 2)
    weight, bias = fresh.weight[:, 0].detach().numpy(), fresh.bias.detach().numpy()
    assert before == pytest.approx(weight + 1 + bias + 1)
    assert negated == pytest.approx(-weight + bias + 2)
    assert found["not, undone"][0] == pytest.approx(weight + bias + 2)
    assert found["retrain"][0] == pytest.approx(before)


@pytest.mark.parametrize("method", ["fed-eraser", "pgd", "mode", "fcu", "fukd"])
def test_a_method_that_needs_a_federation_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="needs a federation"):
        unlearner(Noted(), method)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(FednotError, match="there is no method 'magic'"):
        unlearner(Noted(), "magic")


def remembering(indices: Sequence[int], seed: int) -> dict[str, NDArray[np.floating]]:
    """One kind of model is surer of what it learned; another has forgotten all of it."""
    noise = np.random.default_rng(seed).normal(0, 1, (2, 300))
    lifted = noise[0].copy()
    lifted[list(indices)] += 3.0
    pad = np.zeros(300)
    return {
        "keeps": np.stack([lifted, pad], axis=1),
        "forgets": np.stack([noise[1], pad], axis=1),
    }


def test_who_remembers_is_found_and_who_forgot_is_not() -> None:
    """Three deviations apart: the best rule is right in 93 % of cases, a coin in half."""
    targets = np.zeros(300, dtype=np.int64)
    keeps, forgets = study.attacked(remembering, targets, models=8, seed=0)
    assert (keeps.name, forgets.name) == ("keeps", "forgets")
    assert keeps.balanced_accuracy == pytest.approx(0.93, abs=0.03)
    assert keeps.loss_attack == pytest.approx(0.93, abs=0.03)
    assert forgets.balanced_accuracy == pytest.approx(0.5, abs=0.03)
    assert forgets.loss_attack == pytest.approx(0.5, abs=0.03)


def test_a_small_study_is_shown_in_the_report(tmp_path: Path) -> None:
    told = "--models 6 --retained 30 --candidates 40 --epochs 1 --recovery 1 --methods not"
    folder = folder_of(tmp_path, [result("retrain")])
    assert main([*told.split(), "--out", str(folder)]) == 0
    found = study.read(folder)
    assert found is not None
    assert [one.name for one in found.attacked] == [BEFORE, "not", "not, undone"]
    write(folder)
    text = (folder / "report.md").read_text()
    assert "## Per-example membership inference" in text
    assert f"| not, undone | {100 * found.attacked[2].balanced_accuracy:.2f} |" in text
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["lira"]["attacked"][0]["name"] == BEFORE


def test_what_the_command_cannot_do_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--models", "7", "--retained", "10", "--out", str(tmp_path)]) == 2
    assert "an even number from 6" in capsys.readouterr().err
    assert main(["--retained", "5000", "--out", str(tmp_path)]) == 2
    assert "5000 and 500 digits cannot be drawn of 5000" in capsys.readouterr().err


def test_a_foreign_file_is_told_and_none_is_none(tmp_path: Path) -> None:
    assert study.read(tmp_path) is None
    (tmp_path / study.FILE).write_text("{}")
    with pytest.raises(ResultError, match="no result of lab"):
        study.read(tmp_path)
