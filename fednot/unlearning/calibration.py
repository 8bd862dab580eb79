"""The work `calibrate`: half of the local training, which tells a direction and not a size.

Source: FedEraser (Liu et al., IWQoS 2021, arXiv 2012.13891). A retained client trains from the
unlearned model for r of its local epochs, r = 0.5; the server gives each update the norm of the one
that it stored.

| setting | default | what |
|---|---|---|
| calibration | 0.5 | r, the share of the local epochs, over 0 and at most 1 |

Ours: r times the epochs is rounded up to whole epochs, as in the authors' code; of one local epoch
that would be all of it, so r of its batches are trained on instead, rounded, at least one. Buffers
and the rest are as in Task.train. Cost: r times the local epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from torch import nn

from fednot.data.subset import Subset
from fednot.task import SampleDataset, Task
from fednot.training import Plan, TrainContext, TrainResult
from fednot.unlearning.alone import alone
from fednot.unlearning.work_settings import Setting, values

SETTINGS: Final[Mapping[str, Setting]] = {"calibration": Setting(0.5, 1e-6, 1.0)}


def calibrate(
    task: Task,
    model: nn.Module,
    data: SampleDataset,
    context: TrainContext,
    reference: nn.Module | None,
) -> TrainResult:
    """Task.train on a share of the epochs or batches; `reference` is not used.

    The result counts all of the client's examples, as its weight in the average.
    """
    share = values("calibrate", context, SETTINGS)["calibration"]
    plan = Plan.of(alone(task), data, context)
    epochs = math.ceil(share * plan.epochs)
    part = data if plan.epochs > 1 else Subset(data, _indices(plan, share))
    shorter = replace(context, config={**context.config, "local_epochs": epochs})
    return TrainResult(len(data), task.train(model, part, shorter).metrics)


def _indices(plan: Plan, share: float) -> list[int]:
    """The samples of a share of one epoch's batches, the first ones of the order by the seed."""
    batches = list(plan.batches())
    chosen = batches[: max(1, round(share * len(batches)))]
    return [index for batch in chosen for index in batch]
