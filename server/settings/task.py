"""What is trained."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from fednot.settings import Settings


class TaskSettings(Settings):
    """The model and its Task."""

    task: str = Field(
        "", description="the Task, FILE.py:Class: it builds the model, traces it and evaluates"
    )
    task_arg: tuple[str, ...] = Field((), description="KEY=VALUE for the Task, may be repeated")
    model: Path | None = Field(
        None, description="a model file by `fednot model init`, for a server without a Task"
    )
    seed: int = Field(0, ge=0, description="seed of the initial model and of every round")

    @field_validator("model", mode="before")
    @classmethod
    def _no_model(cls, value: object) -> object:
        return value or None
