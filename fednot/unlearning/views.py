"""Random views of images, and the loss that two views of one image should look alike.

Source of the loss: NT-Xent of SimCLR (Chen et al., ICML 2020, arXiv 2002.05709, equation 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Augmentation:
    """A random crop of the image padded with zeros, then, with `flip`, a mirror image by half."""

    padding: int
    flip: bool

    def view(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A view of each of the images [N, C, H, W], in the same shape.

        `generator` is on the CPU, so that all devices see the same views. Raises ValueError for
        inputs that are no images.
        """
        if images.dim() != 4 or not images.is_floating_point():
            raise ValueError(
                f"inputs of shape {list(images.shape)} and {images.dtype} are no images"
                " [N, C, H, W] of floats; use plain training for them"
            )
        cropped = self._cropped(images, generator)
        if not self.flip:
            return cropped
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        return torch.where(
            mirrored.to(images.device)[:, None, None, None], cropped.flip(3), cropped
        )

    def _cropped(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count, channels, height, width = images.shape
        padded = nn.functional.pad(images, (self.padding,) * 4)
        corner = torch.randint(0, 2 * self.padding + 1, (2, count, 1), generator=generator)
        rows, columns = corner[0] + torch.arange(height), corner[1] + torch.arange(width)
        place = (
            torch.arange(count)[:, None, None, None],
            torch.arange(channels)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        )
        return padded[tuple(index.to(images.device) for index in place)]


def alikeness(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent of the features [N, D] of two views of the same N samples; memory [2N, 2N]."""
    rows = nn.functional.normalize(torch.cat([first, second]), dim=1)
    similarities = rows @ rows.T / temperature
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    partner = torch.arange(len(rows), device=rows.device).roll(len(first))
    return nn.functional.cross_entropy(similarities.masked_fill(itself, -torch.inf), partner)
