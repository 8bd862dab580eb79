"""NoT with a contrastive term on the retained data in its recovery: a candidate of our own.

CoUn (Khalil et al. 2025) adds one to centralised unlearning; `fednot.unlearning.view_contrast` has
what a client does here, and what of it is ours.
"""

from __future__ import annotations

from typing import ClassVar

from server.methods.negation import Negation


class NegationWithContrast(Negation):
    """Negate the chosen layers once; recover with views of a sample drawn together."""

    name: ClassVar[str] = "not-contrast"

    @property
    def recovery_work(self) -> str:
        """Training with the contrastive term."""
        return "train-contrast"
