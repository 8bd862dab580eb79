"""The figures of a cell's models (lab.scores) and how fast the last one relearns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn

from fednot import training
from fednot.manifest import Manifest
from fednot.tensors import load_into
from lab.cells import Cell
from lab.relearning import relearn
from lab.scene import Scene
from lab.scores import score

_CPU: Final = torch.device("cpu")


def scores(
    cell: Cell, scene: Scene, flat: torch.Tensor, gone: Sequence[str]
) -> dict[str, float | None]:
    """The four figures, and the confidence attack if the cell asks for it; the last client of those
    gone is the forgotten one, the samples of all that are not gone are retained.
    """
    found = score(
        scene.server_task,
        flat,
        retain=scene.retained(gone),
        forget=scene.forgotten(gone[-1]),
        test=scene.test,
        seed=scene.spec.seed,
        confidence="confidence" in cell.measure.mia,
    )
    return found.to_dict()


def backdoors(scene: Scene, flat: torch.Tensor) -> dict[str, float]:
    """The success of each poisoned client's trigger, by client."""
    task, model = scene.server_task, model_of(scene, flat)
    return {
        name: training.evaluate(task, model, data, _CPU)["accuracy"]
        for name, data in scene.triggered().items()
    }


def relearning(cell: Cell, scene: Scene, flat: torch.Tensor, client: str) -> dict[str, Any]:
    """The accuracies on a client's samples that are not shown, by passes over those that are."""
    found = relearn(
        scene.server_task,
        flat,
        scene.forgotten(client),
        passes=cell.measure.relearning,
        seed=cell.base.seed,
        config=cell.base.training.overrides,
    )
    return {"accuracies": list(found.accuracies)}


def model_of(scene: Scene, flat: torch.Tensor) -> nn.Module:
    """The model of a flat one."""
    model = scene.server_task.build_model()
    load_into(model, flat, Manifest.of(model))
    return model
