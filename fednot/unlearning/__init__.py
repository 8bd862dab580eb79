"""What a client can be asked to do with its data beside training, to unlearn or to recover.

Each work trains the model that it is given, in place, and the caller sends trained minus given. One
file holds one work, with its source, its settings and their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from torch import nn

from fednot.errors import FednotError, Reason
from fednot.task import SampleDataset, Task
from fednot.training import TrainContext, TrainResult
from fednot.unlearning.ascent import ascend
from fednot.unlearning.calibration import calibrate
from fednot.unlearning.guidance import guide
from fednot.unlearning.model_contrast import unlearn_contrast
from fednot.unlearning.ordinary import train
from fednot.unlearning.view_contrast import train_contrast


class Work(Protocol):
    """One piece of a client's work."""

    def __call__(
        self,
        task: Task,
        model: nn.Module,
        data: SampleDataset,
        context: TrainContext,
        reference: nn.Module | None,
    ) -> TrainResult:
        """Trains `model` in place; what follows is decided by `context.seed` alone.

        `reference` is a second model that the server may send, in eval mode on the context's
        device. `context.config` overrides settings. Raises WorkCancelledError when the round is
        over, ValueError if a setting, the data or the model does not fit.
        """
        ...


WORKS: Final[Mapping[str, Work]] = MappingProxyType(
    {
        "train": train,
        "calibrate": calibrate,
        "ascend": ascend,
        "guide": guide,
        "unlearn-contrast": unlearn_contrast,
        "train-contrast": train_contrast,
    }
)


def work_named(name: str) -> Work:
    """The work of a name. Raises FednotError (UNKNOWN_METHOD)."""
    if name not in WORKS:
        raise FednotError(
            Reason.UNKNOWN_METHOD, f"this client knows no work {name!r}, only {', '.join(WORKS)}"
        )
    return WORKS[name]
