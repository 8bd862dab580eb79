"""How deletions are verified."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from fednot.settings import Settings
from server.records import Thresholds, VerificationPolicy


class VerificationSettings(Settings):
    """Verification."""

    verify: bool = Field(True, description="verify each deletion before its model is released")
    auc_margin: float = Field(
        0.1, gt=0, lt=0.5, description="how far the membership AUC may be from 0.5"
    )
    trigger_margin: float = Field(
        0.1, gt=0, lt=1, description="by how much a trigger may raise the share of its class"
    )
    undo_rounds: int = Field(2, ge=0, description="rounds after the undo attack")
    undo_layers: int = Field(8, ge=0, description="most layers that are undone each alone")
    verification_wait: float = Field(
        60.0, ge=0, description="seconds verification waits for a client"
    )
    verification_examples: int = Field(
        2000, ge=1, description="most samples of a group that verification looks at"
    )
    probes: Path | None = Field(
        None, description="folder of the operator's sealed probes, one .npz for each scope"
    )

    @field_validator("probes", mode="before")
    @classmethod
    def _no_probes(cls, value: object) -> object:
        return value or None

    def verification_policy(self) -> VerificationPolicy:
        """How a deletion is verified."""
        return VerificationPolicy(
            enabled=self.verify,
            thresholds=Thresholds(self.auc_margin, self.trigger_margin),
            undo_rounds=self.undo_rounds,
            undo_layers=self.undo_layers,
            wait=self.verification_wait,
            max_examples=self.verification_examples,
        )
