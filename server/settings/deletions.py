"""How deletions go and recover."""

from __future__ import annotations

from pydantic import Field, field_validator

from fednot.errors import FednotError
from fednot.settings import Settings
from server.ladder import rung_of


class DeletionSettings(Settings):
    """Deletions and recovery."""

    recovery_min_rounds: int = Field(2, ge=1, description="recovery rounds at the least")
    recovery_max_rounds: int = Field(20, ge=1, description="recovery rounds of an attempt at most")
    recovery_momentum: float = Field(
        0.0, ge=0, lt=1, description="share of the last recovery step that the next one adds"
    )
    recovery_tolerance: float = Field(
        0.01, ge=0, lt=1, description="accuracy that recovery may stay below the one before"
    )
    plateau_rounds: int = Field(5, ge=1, description="rounds without improvement: a plateau")
    chance_rounds: int = Field(4, ge=1, description="rounds at chance before the next layer")
    ladder: tuple[str, ...] = Field(
        ("shrink-and-perturb:0.3", "retrain"),
        description="plans of --assurance deep, one after the other: SELECTOR or "
        "METHOD[@SELECTOR], each with *ROUNDS or without",
    )
    job_deadline: float = Field(
        30 * 24 * 3600.0, gt=0, description="seconds before an open deletion fails"
    )
    confirmation_wait: float = Field(
        7 * 24 * 3600.0,
        gt=0,
        description="seconds a deletion waits for a client to confirm what it forgets",
    )
    target_wait: float = Field(
        600.0,
        ge=0,
        description="seconds that a method waits for the client whose data is forgotten",
    )
    destruction_wait: float = Field(
        10.0, ge=0, description="seconds a deletion waits for clients to destroy their caches"
    )
    keep_updates: int = Field(
        0,
        ge=0,
        description="keep the updates of every N-th round for fed-eraser and fukd; 0 keeps none",
    )

    @field_validator("ladder")
    @classmethod
    def _known_plans(cls, ladder: tuple[str, ...]) -> tuple[str, ...]:
        for text in ladder:
            try:
                rung_of(text)
            except FednotError as error:
                raise ValueError(error.message) from error
        return ladder
