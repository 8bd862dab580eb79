"""The figures of a cell's models (lab.scores) and how fast the last one relearns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fednot.manifest import Manifest
from fednot.tensors import load_into
from lab.cells import Cell
from lab.relearning import relearn
from lab.scores import score
from lab.setting import Setting


def scores(setting: Setting, flat: torch.Tensor, gone: Sequence[str]) -> dict[str, float | None]:
    """The four figures and the confidence attack; the last client of those gone is the forgotten
    one, the samples of all that are not gone are retained.
    """
    found = score(
        setting.server_task,
        flat,
        retain=setting.retained(gone),
        forget=setting.forgotten(gone[-1]),
        test=setting.test,
        seed=setting.spec.seed,
    )
    return found.to_dict()


def backdoors(setting: Setting, flat: torch.Tensor) -> dict[str, float]:
    """The success of each poisoned client's trigger, by client."""
    model = model_of(setting, flat)
    names = setting.targets[: setting.spec.poisoned]
    return {name: setting.backdoor(model, name) for name in names}


def relearning(cell: Cell, setting: Setting, flat: torch.Tensor, client: str) -> dict[str, Any]:
    """The accuracies on a client's samples that are not shown, by passes over those that are."""
    found = relearn(
        setting.server_task,
        flat,
        setting.forgotten(client),
        passes=cell.measure.relearning,
        seed=cell.base.seed,
        config=cell.base.training.overrides,
    )
    return {"accuracies": list(found.accuracies)}


def model_of(setting: Setting, flat: torch.Tensor) -> nn.Module:
    """The model of a flat one."""
    model = setting.server_task.build_model()
    load_into(model, flat, Manifest.of(model))
    return model
