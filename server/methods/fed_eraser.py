"""FedEraser: rebuild the model from kept updates (Liu et al., IWQoS 2021, arXiv 2012.13891).

The server was told to keep the clients' updates of every N-th round (--keep-updates). From the
initial version on, the retained clients' first updates are applied as they are; then, for each kept
round, those clients train for half the local epochs and their new updates are scaled, tensor by
tensor, to the norms of the kept ones. The paper's formula is per client and the authors' code per
layer of the mean; here it is per client and tensor. Buffers are the new update's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
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
    PastUpdate,
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
        stored = {update.client: update for update in past.updates}
        return ClientStep(
            who=Participants.RETAINED,
            given=context.made[-1],
            work="calibrate",
            transformed=partial(_calibrated, stored, context.start.manifest),
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
    if not past.updates:
        return given()
    average = RunningAverage(manifest, precision=torch.float64)
    for update in past.updates:
        if cancelled():
            break
        average.add(update.load(), update.num_examples)
    return average.applied_to(given()).tensor


def _calibrated(
    stored: Mapping[str, PastUpdate], manifest: Manifest, client: str, update: torch.Tensor
) -> torch.Tensor:
    kept = stored.get(client)
    return update if kept is None else calibrated(kept.load(), update, manifest)
