"""Versions of the global model."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from server.records.scores import Scores


class VersionOrigin(StrEnum):
    """How a version came to be."""

    INITIAL = "initial"
    TRAINING = "training"
    UNLEARNING = "unlearning"
    RECOVERY = "recovery"
    CHOSEN = "chosen"


@dataclass(frozen=True)
class Version:
    """An immutable version of the global model; its bytes are in the model store under sha256.

    `held_by` is the job that keeps it for a legal hold, "" if none does.
    """

    number: int
    sha256: str
    parent: int
    generation: int
    lineage: int
    origin: VersionOrigin
    round: int
    created_at: float
    num_bytes: int
    metrics: Scores = field(default_factory=dict)
    negated_tensors: tuple[str, ...] = ()
    destroyed_at: float | None = None
    held_by: str = ""


@dataclass(frozen=True)
class DestroyedVersion:
    """A version whose bytes a job destroyed."""

    number: int
    sha256: str
