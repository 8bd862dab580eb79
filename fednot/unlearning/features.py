"""A model's features: what goes into the last linear layer that a forward pass runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@contextmanager
def featured(model: nn.Module) -> Iterator[Forward]:
    """A function of inputs [N, ...] to the model's outputs and its features [N, D].

    The layer is found by running, so that it does not matter in which order layers are registered.
    Raises ValueError if no linear layer runs or if its input is not one row a sample.
    """
    seen: list[torch.Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[:] = [args[0] if args else kwargs["input"]]

    def forward(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.clear()
        outputs = model(inputs)
        if not seen:
            raise ValueError(
                "the model runs no nn.Linear, whose input would be its features; use a method that"
                " needs none"
            )
        features = seen.pop()
        if features.dim() < 2 or len(features) != len(inputs):
            raise ValueError(
                f"the last linear layer is given {list(features.shape)} for {len(inputs)} samples;"
                " features must be [N, ...]: use a method that needs none"
            )
        return outputs, features.flatten(1)

    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in linear]
    try:
        yield forward
    finally:
        for hook in hooks:
            hook.remove()
