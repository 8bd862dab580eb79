"""The lab's models by name: the paper's, and sizes of them for two slow CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

import torch
from torch import nn

from fednot import zoo


class PaperCnn(nn.Module):
    """The CNN of the paper's CIFAR tables, as we read it; its shape is not in what we have.

    The one that federated averaging was published with (McMahan et al., AISTATS 2017, section 3,
    after TensorFlow's tutorial): two 5x5 convolutions of 64 channels, each with ReLU and a 2x2 max
    pool, then linear layers of 384 and 192 and the output; 1.8 million parameters for 32 by 32.
    """

    first_layers: ClassVar[tuple[str, ...]] = ("conv1.weight",)

    def __init__(self, in_channels: int, image_size: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(64, 64, kernel_size=5, padding=2)
        self.fc1 = nn.Linear(64 * (image_size // 4) ** 2, 384)
        self.fc2 = nn.Linear(384, 192)
        self.fc3 = nn.Linear(192, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes] of images [N, in_channels, image_size, image_size]."""
        x = nn.functional.max_pool2d(torch.relu(self.conv1(images)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1)))))
        logits: torch.Tensor = self.fc3(x)
        return logits


class SmallCnn(nn.Module):
    """A CNN for slow cores: three convolutions of 16, 32 and 64 channels, two linear layers.

    The first convolution is 5x5 of stride 2, the others are 3x3 with a 2x2 max pool. Within it
    images are laid out channels last, for which the CPU's convolutions take a third less time.
    """

    first_layers: ClassVar[tuple[str, ...]] = ("conv1.weight",)

    def __init__(self, in_channels: int, image_size: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(64 * (image_size // 8) ** 2, 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes] of images [N, in_channels, image_size, image_size]."""
        x = torch.relu(self.conv1(images.contiguous(memory_format=torch.channels_last)))
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv3(x)), 2)
        logits: torch.Tensor = self.fc2(torch.relu(self.fc1(x.flatten(1))))
        return logits


def _resnet18(channels: int, _size: int, classes: int) -> nn.Module:
    return zoo.ResNet18(in_channels=channels, num_classes=classes)


def _resnet_small(channels: int, _size: int, classes: int) -> nn.Module:
    return zoo.ResNet18(in_channels=channels, num_classes=classes, width=8)


def _vit(channels: int, size: int, classes: int) -> nn.Module:
    return zoo.VisionTransformer(in_channels=channels, image_size=size, num_classes=classes)


def _vit_small(channels: int, size: int, classes: int) -> nn.Module:
    return zoo.VisionTransformer(
        in_channels=channels,
        image_size=size,
        patch=size // 4,
        num_classes=classes,
        dim=64,
        depth=3,
        heads=4,
        head_dim=16,
        mlp_dim=128,
    )


BUILDERS: Final[dict[str, Callable[[int, int, int], nn.Module]]] = {
    "cnn": PaperCnn,
    "cnn-small": SmallCnn,
    "cnn-digits": lambda channels, size, classes: zoo.Cnn(
        in_channels=channels, image_size=size, num_classes=classes
    ),
    "resnet18": _resnet18,
    "resnet-small": _resnet_small,
    "vit": _vit,
    "vit-small": _vit_small,
}
"""Builders of the models: of the images' channels, their side in pixels, and the classes."""

NAMES: Final = tuple(BUILDERS)


def build(name: str, shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A model with fresh weights (by torch's seed) for images of a shape [C, H, W].

    cnn, resnet18 and vit are the paper's; cnn-small, resnet-small (a width of 8) and vit-small (16
    patches, dim 64, depth 3) are for two slow cores; cnn-digits is the demonstration's. Each
    declares its `first_layers`. Raises ValueError for an unknown name or inputs that are no fit.
    """
    if name not in BUILDERS:
        raise ValueError(f"{name!r} is no model of the lab; take one of {', '.join(NAMES)}")
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] % 4 or shape[1] < 8:
        raise ValueError(
            f"{name} takes square images whose side is a multiple of 4 and at least 8, not inputs "
            f"of shape {list(shape)}"
        )
    return BUILDERS[name](shape[0], shape[1], num_classes)
