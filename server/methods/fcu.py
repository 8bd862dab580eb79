"""FCU: model-contrastive unlearning (Deng, Luo and Chen, MICCAI 2024, arXiv 2407.02356)."""

from __future__ import annotations

from typing import ClassVar

from server.methods.from_base import FromBase
from server.methods.method import (
    ClientStep,
    Needs,
    Participants,
    Step,
    StepContext,
)


class Fcu(FromBase):
    """The target pushes its features away from the model's to an untrained one's, then recovery.

    `fednot.unlearning.model_contrast` has what the target does, with the paper's values.
    """

    name: ClassVar[str] = "fcu"
    needs: ClassVar[Needs] = Needs(target=True)

    def steps(self, _context: StepContext) -> int:
        """One, the contrast."""
        return 1

    def step(self, _number: int, context: StepContext) -> Step:
        """The contrast with frequency-guided memory."""
        return ClientStep(
            who=Participants.TARGET, given=context.made[-1], target_work="unlearn-contrast"
        )
