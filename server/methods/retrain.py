"""Retraining without the forgotten data: the oracle of every comparison (paper, baselines)."""

from __future__ import annotations

from typing import ClassVar

from server.methods.from_initial import FromInitial
from server.methods.method import Needs, WithoutSteps


class Retrain(FromInitial, WithoutSteps):
    """Start again from the initial version, for as many rounds as the model was trained."""

    name: ClassVar[str] = "retrain"
    needs: ClassVar[Needs] = Needs(initial=True, rounds_trained=True)

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """As many rounds as the base was trained for; the default if it was not."""
        return rounds_trained or default
