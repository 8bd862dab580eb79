"""Shrink and perturb (Ash and Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020).

The whole model is shrunk towards zero and fresh weights are added: VALUE * old + (1 - VALUE) *
fresh. What the old weights hold of the data is still there in part, and there is no layer of which
flipping the sign brings it back whole. The mix with the fresh draw at 1 - VALUE, and the negation
beside it, are ours; the paper adds noise of a scale of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import torch

from fednot.manifest import Manifest
from fednot.runs import PIECE_ELEMENTS
from server.methods.fresh import fresh, learned
from server.methods.method import Needs, StartContext, WithoutSteps
from server.methods.negation import negated
from server.methods.numbers import named

KEPT: Final = 0.3
"""The share of the old weights, unless the method's name says another."""


def mixed(old: torch.Tensor, other: torch.Tensor, manifest: Manifest, share: float) -> torch.Tensor:
    """share * old + (1 - share) * other for the floating parameters; all else is that of `old`."""
    result = old.clone()
    for into, more in _pieces(result, other, manifest):
        _write(into, into.double().mul_(share).add_(more.double(), alpha=1 - share))
    return result


def unmixed(
    flat: torch.Tensor, other: torch.Tensor, manifest: Manifest, share: float
) -> torch.Tensor:
    """The old one of `mixed`: (flat - (1 - share) * other) / share."""
    result = flat.clone()
    for into, more in _pieces(result, other, manifest):
        _write(into, into.double().sub_(more.double(), alpha=1 - share).div_(share))
    return result


def _pieces(
    into: torch.Tensor, other: torch.Tensor, manifest: Manifest
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for spec in manifest:
        if not learned(spec):
            continue
        place = slice(spec.byte_offset, spec.byte_offset + spec.nbytes)
        one, two = (flat[place].view(spec.torch_dtype) for flat in (into, other))
        for start in range(0, spec.numel, PIECE_ELEMENTS):
            yield one[start : start + PIECE_ELEMENTS], two[start : start + PIECE_ELEMENTS]


def _write(into: torch.Tensor, values: torch.Tensor) -> None:
    largest = torch.finfo(into.dtype).max
    into.copy_(values.clamp_(-largest, largest))


@dataclass(frozen=True)
class ShrinkAndPerturb(WithoutSteps):
    """Mix the whole model with a fresh draw, then recover as NoT does."""

    share: float = KEPT

    kind: ClassVar[str] = "shrink-and-perturb"
    needs: ClassVar[Needs] = Needs(initial=True)
    new_lineage: ClassVar[bool] = False
    negates: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """shrink-and-perturb:SHARE."""
        return named(self.kind, self.share)

    def start(self, context: StartContext) -> torch.Tensor:
        """The mixed model. Raises ValueError if the context lacks the initial version."""
        return mixed(context.base, _fresh(context), context.manifest, self.share)

    def undone(self, context: StartContext, flat: torch.Tensor) -> torch.Tensor:
        """The model without the fresh draw, scaled back."""
        return unmixed(flat, _fresh(context), context.manifest, self.share)

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The server's default."""
        return default


@dataclass(frozen=True)
class NegateAndPerturb(WithoutSteps):
    """Negate the chosen layers, mix the whole model with a fresh draw, then recover as NoT does."""

    share: float = KEPT

    kind: ClassVar[str] = "negate-and-perturb"
    needs: ClassVar[Needs] = Needs(layers=True, initial=True)
    new_lineage: ClassVar[bool] = False
    negates: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """negate-and-perturb:SHARE."""
        return named(self.kind, self.share)

    def start(self, context: StartContext) -> torch.Tensor:
        """The mixed model. Raises ValueError without a tensor or without the initial version."""
        old = negated(context.base, context.manifest, context.tensors)
        return mixed(old, _fresh(context), context.manifest, self.share)

    def undone(self, context: StartContext, flat: torch.Tensor) -> torch.Tensor:
        """The model without the fresh draw, scaled back, and the layers negated again."""
        old = unmixed(flat, _fresh(context), context.manifest, self.share)
        return negated(old, context.manifest, context.tensors)

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The server's default."""
        return default


def _fresh(context: StartContext) -> torch.Tensor:
    if context.initial is None:
        raise ValueError("shrink and perturb needs the initial version")
    return fresh(context.initial, context.manifest, context.seed)
