"""Parametrised weights (torch.nn.utils.parametrize): which stored tensor negates the weight.

Such a weight is computed in each forward pass from the tensors that are stored and trained, as
weight_norm computes it from a size and a direction. The question is answered by trying.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

_SEED: Final = 20250305


@dataclass(frozen=True)
class Parametrised:
    """One stored tensor of a parametrised weight.

    `weight` is the name of the computed weight (conv1.weight) and `dimensions` how many it has;
    `negating` is the state-dict name of the stored tensor that negates it, or None.
    """

    weight: str
    dimensions: int
    negating: str | None

    @property
    def refusal(self) -> str:
        """Why a stored tensor other than the negating one is not negated."""
        if self.negating is None:
            return (
                f"is part of the parametrised {self.weight}, and negating none of its stored"
                " tensors negates it in both training and evaluation (spectral_norm, for one,"
                " divides the sign out again)"
            )
        return f"is part of the parametrised {self.weight}, which {self.negating} negates by itself"


def parametrised_weights(model: nn.Module) -> dict[str, Parametrised]:
    """Each stored tensor of each parametrised weight of the model, by its state-dict name."""
    found = {}
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for attribute in cast("nn.ModuleDict", module.parametrizations):
                found.update(_stored(module, f"{path}." if path else "", attribute))
    return found


def _stored(module: nn.Module, prefix: str, attribute: str) -> dict[str, Parametrised]:
    weight = getattr(module, attribute)
    stored = _originals(module, attribute)
    # Of a size and a direction (weight_norm), the larger is the direction.
    likeliest_first = sorted(stored, key=lambda name: -stored[name].numel())
    negating = next((n for n in likeliest_first if _negates(module, attribute, n)), None)
    place = f"{prefix}parametrizations.{attribute}."
    full = f"{place}{negating}" if negating else None
    entry = Parametrised(f"{prefix}{attribute}", weight.dim(), full)
    return {f"{place}{name}": entry for name in stored}


def _originals(module: nn.Module, attribute: str) -> dict[str, nn.Parameter]:
    parametrizations = cast("nn.ModuleDict", module.parametrizations)
    return dict(parametrizations[attribute].named_parameters(recurse=False))


def _negates(module: nn.Module, attribute: str, name: str) -> bool:
    """Whether negating one stored tensor negates the weight, in training and in evaluation.

    Evaluation counts because the undo attack scores a model as soon as its layers are negated.
    """
    return all(_negates_in(module, attribute, name, training) for training in (True, False))


def _negates_in(module: nn.Module, attribute: str, name: str, training: bool) -> bool:
    # Random values, since an all-zero weight would seem to be negated by anything.
    generator = torch.Generator().manual_seed(_SEED)
    try:
        plain = copy.deepcopy(module).cpu().train(training)
        with torch.no_grad():
            for parameter in _originals(plain, attribute).values():
                values = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(values.to(parameter.dtype))
            turned = copy.deepcopy(plain)
            _originals(turned, attribute)[name].neg_()
            before, after = getattr(plain, attribute), getattr(turned, attribute)
            return torch.allclose(after, -before, rtol=1e-3, atol=1e-6)
    except Exception:
        # A parametrisation is user code; one that cannot be tried is not negated.
        return False
