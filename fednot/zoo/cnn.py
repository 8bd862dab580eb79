"""A convolutional network of two convolutions and two linear layers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn


class Cnn(nn.Module):
    """conv1, conv2 (5x5, each with ReLU and a 2x2 max pool), then fc1 and fc2.

    The defaults suit digits of 28 by 28: images [N, in_channels, image_size, image_size] in, logits
    [N, num_classes] out. Raises ValueError if the image is too small for two pools.
    """

    first_layers: ClassVar[tuple[str, ...]] = ("conv1.weight",)

    def __init__(
        self,
        *,
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        widths: tuple[int, int] = (16, 32),
        hidden: int = 128,
    ) -> None:
        super().__init__()
        if image_size < 4:
            raise ValueError(f"image_size is {image_size}; two pools need 4 or more")
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(widths[0], widths[1], kernel_size=5, padding=2)
        self.fc1 = nn.Linear(widths[1] * (image_size // 4) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes] of images [N, in_channels, image_size, image_size]."""
        x = nn.functional.max_pool2d(torch.relu(self.conv1(images)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        logits: torch.Tensor = self.fc2(torch.relu(self.fc1(x.flatten(1))))
        return logits
