"""Re-initialise the chosen layers: the ablation that is strong but not resilient (CVPR 2025)."""

from __future__ import annotations

from typing import ClassVar

import torch

from fednot.tensors import views
from server.methods.fresh import fresh_tensor, learned
from server.methods.method import Needs, StartContext, WithoutSteps


class Reinitialise(WithoutSteps):
    """Draw the chosen layers afresh once, then recover as NoT does."""

    name: ClassVar[str] = "reinitialise"
    needs: ClassVar[Needs] = Needs(layers=True, initial=True)
    new_lineage: ClassVar[bool] = False
    negates: ClassVar[bool] = False

    def start(self, context: StartContext) -> torch.Tensor:
        """The base with fresh chosen tensors; see `fresh` for what that is.

        Raises ValueError if none is named, or if the context lacks the initial version.
        """
        if context.initial is None:
            raise ValueError("re-initialising needs the initial version")
        if not context.tensors:
            raise ValueError("re-initialising needs at least one tensor")
        result = context.base.clone()
        out = views(result, context.manifest)
        for name in dict.fromkeys(context.tensors):
            spec = context.manifest[name]
            if learned(spec) and spec.numel:
                out[name].copy_(fresh_tensor(context.initial, spec, context.seed))
        return result

    def undone(self, context: StartContext, flat: torch.Tensor) -> torch.Tensor | None:
        """None: nothing of the old layers is in the start."""
        return None

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The server's default."""
        return default
