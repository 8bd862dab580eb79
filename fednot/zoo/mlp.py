"""A multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn


class Mlp(nn.Module):
    """Hidden linear layers with ReLU, then a linear output.

    Anything of shape [N, ...] with in_features values a sample goes in, logits [N, num_classes]
    come out. Raises ValueError without a hidden layer: its first layer would be its output.
    """

    first_layers: ClassVar[tuple[str, ...]] = ("hidden.0.weight",)

    def __init__(
        self,
        *,
        in_features: int = 784,
        hidden: Sequence[int] = (256, 128),
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("an Mlp needs one hidden layer or more")
        sizes = pairwise((in_features, *hidden))
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in sizes)
        self.output = nn.Linear(hidden[-1], num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes] of inputs [N, ...], flattened."""
        x = inputs.flatten(1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        logits: torch.Tensor = self.output(x)
        return logits
