"""The operator's sealed probes: samples by which the server itself can look at a model.

`client-NAME.npz`, `samples-NAME.npz` and `class-LABEL.npz` in the folder of probes hold arrays:
`forgotten_x`, `forgotten_y`, `unseen_x`, `unseen_y` of samples, and `trigger_x`, `clean_x` of the
same images with and without a trigger, whose class is `trigger_target`. A pair may be missing.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fednot.data.in_memory import InMemoryDataset, scaled
from fednot.data.subset import Subset
from fednot.loss_profile import LossProfile
from fednot.task import SampleDataset, Task
from server.cohorts.cohort import SampleGroup
from server.records import Scope, ScopeKind

Array = NDArray[Any]

_GROUPS: Final = {
    SampleGroup.FORGOTTEN: ("forgotten_x", "forgotten_y"),
    SampleGroup.UNSEEN: ("unseen_x", "unseen_y"),
}
_TRIGGER: Final = ("trigger_x", "clean_x", "trigger_target")
_KNOWN: Final = frozenset(_TRIGGER).union(*_GROUPS.values())
_CPU: Final = torch.device("cpu")
_BATCH: Final = 256


class ProbeError(Exception):
    """A probe that cannot be used; the message says why."""


@dataclass(frozen=True)
class Trigger:
    """Images [N, ...] with the trigger and the same ones without it, and the trigger's class."""

    with_it: torch.Tensor
    without: torch.Tensor
    target: int


@dataclass(frozen=True)
class Probe:
    """What a file holds, with its sha256."""

    name: str
    sha256: str
    groups: Mapping[SampleGroup, SampleDataset]
    trigger: Trigger | None


def file_name(scope: Scope) -> str:
    """The name of a scope's probe."""
    what = scope.label if scope.kind is ScopeKind.CLASS else scope.client
    return f"{scope.kind}-{what}.npz"


def read_probes(folder: Path, scopes: Sequence[Scope]) -> list[Probe]:
    """The probes that there are for some scopes. Raises ProbeError for one that cannot be used."""
    names = dict.fromkeys(file_name(scope) for scope in scopes)
    return [_read(path) for name in names if (path := folder / name).is_file()]


def profiles(
    probe: Probe, task: Task, model: nn.Module, most: int
) -> dict[SampleGroup, LossProfile]:
    """How a model does on at most `most` samples of each group.

    Raises ProbeError if the model cannot take them.
    """
    found = {}
    for group, data in probe.groups.items():
        try:
            losses, correct = task.sample_losses(model, _first(data, most), _CPU)
        except Exception as error:
            raise ProbeError(f"{probe.name}: the model cannot take its {group} samples") from error
        found[group] = LossProfile.of(losses.numpy(), correct.tolist())
    return found


@torch.no_grad()
def trigger_figures(trigger: Trigger, model: nn.Module, most: int) -> dict[str, float]:
    """`trigger_success`: how often the trigger's class is answered where the trigger is;
    `trigger_effect`: by how much more than without it. Raises ProbeError if the model cannot take
    the images.
    """
    model.eval()
    try:
        success = _share(model, trigger.with_it[:most], trigger.target)
        clean = _share(model, trigger.without[:most], trigger.target)
    except Exception as error:
        raise ProbeError("the model cannot take the images of the trigger") from error
    return {"trigger_success": success, "trigger_effect": success - clean}


def _share(model: nn.Module, images: torch.Tensor, target: int) -> float:
    answers = [model(part).argmax(dim=1) == target for part in torch.split(images, _BATCH)]
    return float(torch.cat(answers).double().mean())


def _first(data: SampleDataset, most: int) -> SampleDataset:
    if len(data) <= most:
        return data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return Subset(data, order[:most].tolist())


def _read(path: Path) -> Probe:
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ProbeError(f"{path.name} cannot be read: {error}") from error
    if unknown := sorted(arrays.keys() - _KNOWN):
        raise ProbeError(f"{path.name} has {', '.join(unknown)}; known are {sorted(_KNOWN)}")
    try:
        groups = {
            group: _samples(arrays, *keys)
            for group, keys in _GROUPS.items()
            if any(key in arrays for key in keys)
        }
        trigger = _trigger(arrays) if any(key in arrays for key in _TRIGGER) else None
    except (KeyError, TypeError, ValueError) as error:
        why = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ProbeError(f"{path.name}: {why}") from error
    if not groups and trigger is None:
        raise ProbeError(f"{path.name} has neither samples nor a trigger")
    return Probe(path.name, hashlib.sha256(content).hexdigest(), groups, trigger)


def _samples(arrays: Mapping[str, Array], x: str, y: str) -> SampleDataset:
    inputs, labels = arrays[x], arrays[y]
    if inputs.ndim < 2 or labels.ndim != 1 or len(inputs) != len(labels) or not len(labels):
        raise ValueError(f"{x} {inputs.shape} and {y} {labels.shape} must be [N, ...] and [N]")
    _check_numbers(x, inputs)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{y} must hold whole numbers, not {labels.dtype}")
    ids = [f"{x}-{index}" for index in range(len(labels))]
    return InMemoryDataset(_tensor(inputs), torch.from_numpy(labels.astype(np.int64)), ids)


def _trigger(arrays: Mapping[str, Array]) -> Trigger:
    marked, clean, target = (arrays[key] for key in _TRIGGER)
    if marked.shape != clean.shape or marked.ndim < 2 or not len(marked):
        raise ValueError(
            f"trigger_x {marked.shape} and clean_x {clean.shape} must both be [N, ...] and equal"
        )
    if target.size != 1 or target.dtype.kind not in "iu":
        raise ValueError("trigger_target must be one whole number")
    _check_numbers("trigger_x", marked)
    _check_numbers("clean_x", clean)
    return Trigger(_tensor(marked), _tensor(clean), int(target.reshape(())))


def _tensor(values: Array) -> torch.Tensor:
    """As a Task's dataset in memory gives its inputs: uint8 as float32 in [0, 1]."""
    return scaled(torch.from_numpy(np.array(values))).float()


def _check_numbers(name: str, values: Array) -> None:
    if values.dtype.kind not in "fiub" or (
        values.dtype.kind == "f" and not np.isfinite(values).all()
    ):
        raise ValueError(f"{name} must hold finite numbers, not {values.dtype}")
