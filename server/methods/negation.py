"""NoT: unlearning by weight negation (Khalil et al., CVPR 2025, arXiv 2503.05657)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from fednot.manifest import Manifest
from fednot.tensors import views
from server.methods.method import Needs, StartContext


def negated(flat: torch.Tensor, manifest: Manifest, tensors: Sequence[str]) -> torch.Tensor:
    """A copy of the flat model with the named tensors times -1 and all else bit for bit the same.

    The weight tensors only: biases, normalisation parameters and buffers stay (paper, section 11).
    Raises KeyError for a tensor that the manifest does not list, ValueError if none is named.
    """
    if not tensors:
        raise ValueError("negation needs at least one tensor")
    result = flat.clone()
    found = views(result, manifest)
    for name in dict.fromkeys(tensors):
        found[name].neg_()
    return result


class Negation:
    """Negate the chosen layers once, then recover by federated averaging on the retained data."""

    name: ClassVar[str] = "not"
    needs: ClassVar[Needs] = Needs(layers=True)
    new_lineage: ClassVar[bool] = False

    def start(self, context: StartContext) -> torch.Tensor:
        """The base with the chosen tensors negated."""
        return negated(context.base, context.manifest, context.tensors)

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The server's default."""
        return default
