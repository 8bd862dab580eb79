"""Per-example attacks on each method, in a small setting of the embedded digits.

For each method one table row: how well LiRA, and beside it one rule for all samples, tells examples
that were learned and unlearned from those that were never seen. Retraining's is guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fednot.data.in_memory import InMemoryDataset
from fednot.data.mnist5k import mnist5k
from fednot.task import Task
from fednot.whole_file import write_whole
from fednot.zoo.cnn import Cnn
from lab.membership.lira import Members
from lab.membership.population import loss_attack
from lab.membership.shadow import Shadows, answers, halves, leave_one_out
from lab.membership.unlearner import Course, Logits, Unlearner
from lab.results import ResultError

FILE: Final = "lira.json"


class Attacked(BaseModel):
    """How one kind of model fared, shares from 0 to 1: per-example LiRA, and the balanced attack by
    the loss (mean over models), which knows one rule for all examples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    balanced_accuracy: float
    auc: float
    tpr_at_1_percent_fpr: float
    loss_attack: float


class LiraResult(BaseModel):
    """The whole study; numbers of models and samples, epochs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    models: int
    retained: int
    candidates: int
    epochs: int
    recovery: int
    seed: int
    attacked: tuple[Attacked, ...]


class Digits(Task):
    """A small network on the embedded digits."""

    def build_model(self) -> torch.nn.Module:
        """A CNN of two narrow convolutions."""
        return Cnn(widths=(8, 16), hidden=64)


def digits(
    retained: int, candidates: int, seed: int
) -> tuple[InMemoryDataset, InMemoryDataset, NDArray[np.int64]]:
    """So many retained and candidate digits, drawn by the seed, and the candidates' classes."""
    found = mnist5k()
    if retained < 1 or candidates < 2 or retained + candidates > len(found):
        raise ValueError(f"{retained} and {candidates} digits cannot be drawn of {len(found)}")
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    parts = []
    for chosen in (order[:retained], order[retained : retained + candidates]):
        ids = [found.sample_id(int(index)) for index in chosen]
        parts.append(InMemoryDataset(found.inputs[chosen], found.targets[chosen], ids))
    return parts[0], parts[1], parts[1].targets.numpy()


def attacked(
    unlearn: Callable[[Sequence[int], int], dict[str, Logits]],
    targets: NDArray[np.int64],
    *,
    models: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Attacked, ...]:
    """Makes so many models of each kind on random halves and attacks each with the others.

    Raises ValueError as `lab.membership.shadow.halves`.
    """
    members = halves(models, len(targets), seed)
    found: dict[str, list[NDArray[np.float64]]] = {}
    for number, chosen in enumerate(members):
        for name, logits in unlearn(np.flatnonzero(chosen).tolist(), seed + number + 1).items():
            found.setdefault(name, []).append(answers(logits, targets))
        progress(number + 1)
    return tuple(_attacked(name, np.stack(rows), members) for name, rows in found.items())


def _attacked(name: str, confidences: NDArray[np.float64], members: Members) -> Attacked:
    strong = leave_one_out(Shadows(confidences, members))
    losses = np.logaddexp(0.0, -confidences)
    weak = [
        loss_attack(row[chosen], row[~chosen], seed=0)
        for row, chosen in zip(losses, members, strict=True)
    ]
    return Attacked(
        name=name,
        balanced_accuracy=strong.balanced_accuracy,
        auc=strong.auc,
        tpr_at_1_percent_fpr=strong.tpr_at_1_percent_fpr,
        loss_attack=float(np.mean(weak)),
    )


def run(
    methods: Sequence[str],
    course: Course,
    *,
    models: int,
    retained: int,
    candidates: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> LiraResult:
    """The study on the embedded digits. Raises ValueError, FednotError for what it cannot do."""
    kept, pool, targets = digits(retained, candidates, seed)
    unlearner = Unlearner(Digits(), kept, pool, methods, course)
    return LiraResult(
        models=models,
        retained=retained,
        candidates=candidates,
        epochs=course.epochs,
        recovery=course.recovery,
        seed=seed,
        attacked=attacked(unlearner, targets, models=models, seed=seed, progress=progress),
    )


def write(folder: Path, result: LiraResult) -> Path:
    """Writes the study beside the cells of a folder, for its report."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    write_whole(path, result.model_dump_json(indent=1) + "\n")
    return path


def read(folder: Path) -> LiraResult | None:
    """The study of a folder, None if there is none. Raises ResultError for another file."""
    path = folder / FILE
    try:
        return LiraResult.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ResultError(f"{path} is no result of lab.membership; delete it: {error}") from error
