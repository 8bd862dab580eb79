"""Fine-tuning, "natural unlearning": nothing but the recovery (paper, baselines)."""

from __future__ import annotations

from typing import ClassVar

import torch

from server.methods.method import Needs, StartContext, WithoutSteps


class FineTune(WithoutSteps):
    """Keep the base and go on training it without the forgotten data: the control."""

    name: ClassVar[str] = "fine-tune"
    needs: ClassVar[Needs] = Needs()
    new_lineage: ClassVar[bool] = False
    negates: ClassVar[bool] = False

    def start(self, context: StartContext) -> torch.Tensor:
        """The base, unchanged."""
        return context.base.clone()

    def undone(self, context: StartContext, flat: torch.Tensor) -> torch.Tensor | None:
        """None: nothing was done."""
        return None

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The server's default."""
        return default
