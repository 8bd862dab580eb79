"""Retraining without the forgotten data: the oracle of every comparison (paper, baselines)."""

from __future__ import annotations

from typing import ClassVar

import torch

from server.methods.method import Needs, StartContext, WithoutSteps


class Retrain(WithoutSteps):
    """Start again from the initial version, for as many rounds as the model was trained."""

    name: ClassVar[str] = "retrain"
    needs: ClassVar[Needs] = Needs(initial=True, rounds_trained=True)
    new_lineage: ClassVar[bool] = True
    negates: ClassVar[bool] = False

    def start(self, context: StartContext) -> torch.Tensor:
        """The initial version. Raises ValueError if the context lacks it."""
        if context.initial is None:
            raise ValueError("retraining needs the initial version")
        return context.initial.clone()

    def undone(self, context: StartContext, flat: torch.Tensor) -> torch.Tensor | None:
        """None: nothing of the base is in the start."""
        return None

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """As many rounds as the base was trained for; the default if it was not."""
        return rounds_trained or default
