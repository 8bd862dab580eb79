"""Gaussian noise in place of negation: the ablation of equal norm (Khalil et al., CVPR 2025).

Negation moves a tensor w by -2w, so the noise on w has FACTOR times the norm 2|w| (theorem 2 of the
paper: of all perturbations of equal norm negation changes the activations most).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch

from fednot.manifest import TensorSpec
from fednot.tensors import views
from server.methods.fresh import drawing
from server.methods.method import Needs, StartContext, WithoutSteps
from server.methods.numbers import named

OF_NEGATION: Final = 2.0
"""The norm of negation's displacement, in norms of the tensor."""


def added(old: torch.Tensor, noise: torch.Tensor, *, sign: int = 1) -> torch.Tensor:
    """old + sign * noise (float64), rounded once to the dtype of `old`, within its range."""
    largest = torch.finfo(old.dtype).max
    return old.double().add_(noise, alpha=sign).clamp_(-largest, largest).to(old.dtype)


@dataclass(frozen=True)
class Noise(WithoutSteps):
    """Add noise to the chosen layers once, then recover as NoT does."""

    factor: float = 1.0

    kind: ClassVar[str] = "noise"
    needs: ClassVar[Needs] = Needs(layers=True)
    new_lineage: ClassVar[bool] = False
    negates: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """noise:FACTOR."""
        return named(self.kind, self.factor)

    def start(self, context: StartContext) -> torch.Tensor:
        """The base with noise on the chosen tensors. Raises ValueError if none is named."""
        return self._with_noise(context, context.base, sign=1)

    def undone(self, context: StartContext, flat: torch.Tensor) -> torch.Tensor:
        """The model without the noise, which follows from the base and its seed."""
        return self._with_noise(context, flat, sign=-1)

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The server's default."""
        return default

    def _with_noise(self, context: StartContext, flat: torch.Tensor, *, sign: int) -> torch.Tensor:
        if not context.tensors:
            raise ValueError("noise needs at least one tensor")
        result = flat.clone()
        base, out = views(context.base, context.manifest), views(result, context.manifest)
        for name in dict.fromkeys(context.tensors):
            spec = context.manifest[name]
            if spec.torch_dtype.is_floating_point and spec.numel:
                noise = self._noise(spec, base[name], context.seed)
                out[name].copy_(added(out[name], noise, sign=sign))
        return result

    def _noise(self, spec: TensorSpec, old: torch.Tensor, seed: int) -> torch.Tensor:
        generator = drawing(seed, "noise", spec.name)
        noise = torch.randn(spec.shape, generator=generator, dtype=torch.float64)
        norm, drawn = (float(torch.linalg.vector_norm(x.double())) for x in (old, noise))
        scale = self.factor * OF_NEGATION * norm / drawn if drawn else 0.0
        # A sum's last bits depend on how many threads made it, and float32 rounds them away.
        return noise.mul_(float(torch.tensor(scale, dtype=torch.float32)))
