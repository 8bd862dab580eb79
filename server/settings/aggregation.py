"""How updates become a model."""

from __future__ import annotations

import math
from typing import Final, Literal

import torch
from pydantic import Field

from fednot.settings import Settings
from server.aggregation import Aggregation, RuleName

_PRECISIONS: Final = {"float32": torch.float32, "float64": torch.float64}


class AggregationSettings(Settings):
    """Aggregation."""

    aggregation: Literal["mean", "median", "trimmed-mean", "multi-krum"] = Field(
        "mean",
        description="rule for the updates of a round: mean, median, trimmed-mean, multi-krum",
    )
    recovery_aggregation: Literal["", "mean", "median", "trimmed-mean", "multi-krum"] = Field(
        "", description="rule of recovery rounds; empty for that of --aggregation"
    )
    byzantine_clients: int = Field(
        1, ge=1, description="hostile clients a round that trimmed-mean and multi-krum withstand"
    )
    clip_norm: float = Field(
        0.0, ge=0, description="L2 norm to which larger updates are scaled down; 0 for none"
    )
    accumulator: Literal["float32", "float64"] = Field(
        "float32", description="precision of the sum; float64 does not depend on arrival order"
    )
    secure_aggregation: bool = Field(
        False, description="see only the sum of a round's updates, which clients mask"
    )
    mask_range: float = Field(
        16.0, ge=1e-30, le=1e30, description="largest magnitude of an element of a masked update"
    )
    mask_wait: float = Field(
        30.0, gt=0, description="seconds that each step of masking waits for its clients"
    )

    def rule(self, name: str) -> Aggregation:
        """The rule of a name with its numbers."""
        return Aggregation(
            rule=RuleName(name),
            byzantine=self.byzantine_clients,
            clip_norm=self.clip_norm or math.inf,
        )

    @property
    def precision(self) -> torch.dtype:
        """The dtype of the running sum."""
        return _PRECISIONS[self.accumulator]
