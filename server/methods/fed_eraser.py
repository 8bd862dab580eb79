"""FedEraser: rebuild the model from kept updates (Liu et al., IWQoS 2021, arXiv 2012.13891).

The server was told to keep the clients' updates of every N-th round (--keep-updates). From the
initial version on, the retained clients' first updates are applied as they are; then, for each kept
round, those clients train for half the local epochs, and each new update is scaled, tensor by
tensor, to the norm of the mean of the kept ones. That length is the authors' code's, which scales
the mean. The paper's formula scales each client's update to that client's own norm; but updates of
half a training point alike where the kept ones did not, so their mean is then longer than the kept
one: on CIFAR-10 the model diverged in two of three seeds (docs/results.md). Buffers are the new
update's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import ClassVar

import torch

from fednot.manifest import Manifest
from server.aggregation.calibration import calibrated
from server.aggregation.running_average import RunningAverage
from server.methods.from_initial import FromInitial
from server.methods.method import (
    ClientStep,
    Needs,
    Participants,
    PastRound,
    ServerStep,
    Step,
    StepContext,
)


class FedEraser(FromInitial):
    """Replay the kept rounds without the forgotten client, each calibrated by half a training."""

    name: ClassVar[str] = "fed-eraser"
    needs: ClassVar[Needs] = Needs(initial=True, history=True)

    def steps(self, context: StepContext) -> int:
        """One for each kept round."""
        return len(context.history)

    def step(self, number: int, context: StepContext) -> Step:
        """The first applies the first kept updates; each later one is a round of calibration."""
        past = _retained(context.history[number - 1], context.forgotten)
        if number == 1:
            change = partial(_replayed, context.made[-1], past, context.start.manifest)
            return ServerStep(change, past)
        return ClientStep(
            who=Participants.RETAINED,
            given=context.made[-1],
            work="calibrate",
            transformed=_Calibration(past, context.start.manifest),
            keeps=True,
        )


def _retained(past: PastRound, forgotten: frozenset[str]) -> PastRound:
    kept = tuple(each for each in past.updates if each.client not in forgotten)
    return PastRound(kept, past.stride)


def _replayed(
    given: Callable[[], torch.Tensor],
    past: PastRound,
    manifest: Manifest,
    cancelled: Callable[[], bool],
) -> torch.Tensor:
    if not past.updates or cancelled():
        return given()
    return _averaged(past, manifest).applied_to(given()).tensor


def _averaged(past: PastRound, manifest: Manifest) -> RunningAverage:
    average = RunningAverage(manifest, precision=torch.float64)
    for update in past.updates:
        average.add(update.load(), update.num_examples)
    return average


class _Calibration:
    """Scales the updates of one round to the norm of the mean of the kept ones."""

    def __init__(self, past: PastRound, manifest: Manifest) -> None:
        self._past = past
        self._manifest = manifest

    @cached_property
    def _mean(self) -> torch.Tensor:
        nothing = torch.zeros(self._manifest.nbytes, dtype=torch.uint8)
        return _averaged(self._past, self._manifest).applied_to(nothing).tensor

    def __call__(self, _client: str, update: torch.Tensor) -> torch.Tensor:
        if not self._past.updates:
            return update
        return calibrated(self._mean, update, self._manifest)
