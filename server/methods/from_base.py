"""What methods have in common whose starting point is the base version as it is."""

from __future__ import annotations

from typing import ClassVar

import torch

from server.methods.method import TRAIN, StartContext


class FromBase:
    """Starts from the base; what changes it are the method's steps, or the recovery alone."""

    new_lineage: ClassVar[bool] = False
    negates: ClassVar[bool] = False

    def start(self, context: StartContext) -> torch.Tensor:
        """The base, unchanged."""
        return context.base.clone()

    def undone(self, _context: StartContext, _flat: torch.Tensor) -> None:
        """The start has nothing to undo; what steps did can not be told from the model alone."""

    @property
    def recovery_work(self) -> str:
        """Ordinary training."""
        return TRAIN

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The server's default."""
        return default
