"""MoDE: momentum degradation (Zhao et al., IEEE Internet of Things Journal 2023).

A degraded model begins as a fresh draw. In each turn the retained clients train it for a round; the
global model is mixed with it, M <- 0.95 M + 0.05 M_deg; then all clients guide the memory: the
retained ones train M on their labels, the target on the labels that the degraded model gives. The
authors' code was not found; the loop is that of FedQUIT's code, its five turns the pseudo-code's.
The guidance uses the run's learning rate (FedQUIT's code has one of its own, 5e-4).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final

import torch

from fednot.manifest import Manifest
from server.methods.fresh import fresh
from server.methods.from_base import FromBase
from server.methods.method import (
    ClientStep,
    Needs,
    Participants,
    StartContext,
    Step,
    StepContext,
)
from server.methods.shrink_and_perturb import mixed

TURNS: Final = 5
KEPT: Final = 0.95
"""Lambda: the share of the global model that a turn keeps."""


class Mode(FromBase):
    """Degrade the model by momentum, guide its memory, then recovery."""

    name: ClassVar[str] = "mode"
    needs: ClassVar[Needs] = Needs(initial=True, target=True)

    def steps(self, _context: StepContext) -> int:
        """Two in each turn."""
        return 2 * TURNS

    def step(self, number: int, context: StepContext) -> Step:
        """An odd step trains the degraded model, an even one mixes and guides.

        Of the models made so far, those of odd places are degraded, those of even ones global.
        """
        if number % 2:
            given = context.made[-2] if number > 1 else partial(_drawn, context.start)
            return ClientStep(who=Participants.RETAINED, given=given)
        degraded, before = context.made[-1], context.made[-2]
        manifest = context.start.manifest
        return ClientStep(
            who=Participants.ALL,
            given=partial(_mixed, before, degraded, manifest),
            target_work="guide",
            reference=degraded,
        )


def _drawn(context: StartContext) -> torch.Tensor:
    if context.initial is None:
        raise ValueError("MoDE needs the initial version")
    return fresh(context.initial, context.manifest, context.seed)


def _mixed(
    before: Callable[[], torch.Tensor], degraded: Callable[[], torch.Tensor], manifest: Manifest
) -> torch.Tensor:
    return mixed(before(), degraded(), manifest, KEPT)
