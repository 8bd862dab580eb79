"""What methods have in common whose start is a version as it is."""

from __future__ import annotations

from typing import ClassVar

import torch

from server.methods.method import TRAIN, StartContext


class Unchanged:
    """Of a start that is a version as it is: it negates nothing and nothing of it can be undone.

    What changes the model are the method's steps, or the recovery alone.
    """

    negates: ClassVar[bool] = False

    def undone(self, _context: StartContext, _flat: torch.Tensor) -> None:
        """Nothing; what steps did cannot be told from the model alone."""

    @property
    def recovery_work(self) -> str:
        """Ordinary training."""
        return TRAIN

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The server's default."""
        return default


class FromBase(Unchanged):
    """Starts from the base."""

    new_lineage: ClassVar[bool] = False

    def start(self, context: StartContext) -> torch.Tensor:
        """The base, unchanged."""
        return context.base.clone()
