"""PGD: projected gradient ascent on the target (Halimi et al. 2022, arXiv 2207.05521)."""

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


class Pgd(FromBase):
    """The target raises its own loss near the mean of the others' models, then recovery.

    `fednot.unlearning.ascent` has what the target does, with the paper's values.
    """

    name: ClassVar[str] = "pgd"
    needs: ClassVar[Needs] = Needs(target=True)

    def steps(self, _context: StepContext) -> int:
        """One, the ascent."""
        return 1

    def step(self, _number: int, context: StepContext) -> Step:
        """The ascent, told which share of all examples is the target's."""
        return ClientStep(
            who=Participants.TARGET,
            given=context.made[-1],
            target_work="ascend",
            config={"share": context.share},
        )
