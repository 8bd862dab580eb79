"""Random crops and mirroring of training images, as the paper's author trains with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from fednot.task import SampleDataset
from fednot.training import batch_of

PADDING: Final = 4
KINDS: Final = ("", "crop", "crop-flip")


class Augmented:
    """Training images [C, H, W], cut out anew at each read of the image padded by 4 zeros.

    With `flip`, half of them are mirrored, too. Zeros are the mean colour where inputs are
    normalised. Draws are torch's own, which the training loop seeds.
    """

    def __init__(self, data: SampleDataset, *, flip: bool) -> None:
        self._data = data
        self._flip = flip

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        """An augmented image and its target."""
        images, targets = self.batch([index])
        return images[0], targets[0]

    def sample_id(self, index: int) -> str:
        """The id that the sample has in the data."""
        return self._data.sample_id(index)

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented images [B, C, H, W], each with draws of its own, and their targets."""
        images, targets = batch_of(self._data, indices)
        return self._mirrored(_cropped(images)), targets

    def _mirrored(self, images: torch.Tensor) -> torch.Tensor:
        if not self._flip:
            return images
        chosen = torch.rand(len(images), 1, 1, 1) < 0.5
        return torch.where(chosen, images.flip(3), images)


def augmented(data: SampleDataset, kind: str) -> SampleDataset:
    """The data, augmented by "crop" or "crop-flip"; "" leaves it. Raises ValueError for others."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no augmentation; take 'crop', 'crop-flip' or ''")
    return Augmented(data, flip=kind == "crop-flip") if kind else data


def _cropped(images: torch.Tensor) -> torch.Tensor:
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (PADDING,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    rows, columns = torch.randint(2 * PADDING + 1, (2, count))
    return windows[torch.arange(count), :, rows, columns]
