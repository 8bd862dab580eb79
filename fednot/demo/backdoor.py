"""A pixel backdoor: images that carry a trigger are labelled with the attacker's class.

The demonstration uses it as a witness: the model can only answer the trigger with the target class
if it learned from the client that was poisoned (Halimi et al. 2022, arXiv 2207.05521, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Backdoor:
    """A square of `size` pixels whose top left pixel is (row, column), and its class.

    `value` is what its pixels are set to in every channel: white, for images in [0, 1].
    """

    row: int
    column: int
    target: int
    size: int = 4
    value: float = 1.0

    def stamped(self, images: torch.Tensor) -> torch.Tensor:
        """A copy of the images [N, C, H, W] with the trigger in each."""
        marked = images.clone()
        rows = slice(self.row, self.row + self.size)
        columns = slice(self.column, self.column + self.size)
        marked[:, :, rows, columns] = self.value
        return marked

    def poisoned(
        self, images: torch.Tensor, labels: torch.Tensor, share: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of images and labels with the trigger and its class in a share of them."""
        chosen = torch.randperm(len(images), generator=generator)[: round(share * len(images))]
        images, labels = images.clone(), labels.clone()
        images[chosen] = self.stamped(images[chosen])
        labels[chosen] = self.target
        return images, labels

    def write_probe(self, path: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Writes the sealed probe of verification: images of other classes, without and with it."""
        clean = images[labels != self.target]
        np.savez(
            path,
            clean_x=clean.numpy(),
            trigger_x=self.stamped(clean).numpy(),
            trigger_target=np.int64(self.target),
        )

    def probes(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The images that are not of the target class, with the trigger in each."""
        return self.stamped(images[labels != self.target])


BACKDOORS = (Backdoor(row=23, column=23, target=0), Backdoor(row=1, column=1, target=7))
"""The backdoor of client-0, and the one of client-1 where two clients are poisoned."""
