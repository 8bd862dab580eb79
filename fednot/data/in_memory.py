"""Samples held in memory as two tensors, so that a batch is one indexing step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fednot.data.errors import DataError


class InMemoryDataset:
    """Inputs [N, ...] and int targets [N] with an id each.

    uint8 inputs stay as they are in memory and are given as float32 in [0, 1]; other inputs are
    given as float32 unchanged. Raises DataError if the numbers of samples differ.
    """

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor, ids: Sequence[str]) -> None:
        if not len(inputs) == len(targets) == len(ids):
            raise DataError(
                f"{len(inputs)} inputs, {len(targets)} targets and {len(ids)} ids do not match"
            )
        self._inputs = inputs if inputs.dtype is torch.uint8 else inputs.float()
        self._targets = targets.long()
        self._ids = list(ids)

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Input, float32, and its class."""
        return scaled(self._inputs[index]), int(self._targets[index])

    def sample_id(self, index: int) -> str:
        """The id of the sample at an index."""
        return self._ids[index]

    def target(self, index: int) -> int:
        """The class of the sample at an index."""
        return int(self._targets[index])

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs float32 [B, ...] and targets int64 [B] at the indices, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return scaled(self._inputs[chosen]), self._targets[chosen]

    @property
    def inputs(self) -> torch.Tensor:
        """All inputs, float32 [N, ...]."""
        return scaled(self._inputs)

    @property
    def stored(self) -> torch.Tensor:
        """All inputs as they are in memory, uint8 or float32 [N, ...]; not to be written to."""
        return self._inputs

    @property
    def targets(self) -> torch.Tensor:
        """All targets, int64 [N]."""
        return self._targets


def scaled(inputs: torch.Tensor) -> torch.Tensor:
    """uint8 as float32 in [0, 1]; anything else unchanged."""
    return inputs.float().div_(255) if inputs.dtype is torch.uint8 else inputs
