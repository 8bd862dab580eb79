"""Fine-tuning, "natural unlearning": nothing but the recovery (paper, baselines)."""

from __future__ import annotations

from typing import ClassVar

from server.methods.from_base import FromBase
from server.methods.method import Needs, WithoutSteps


class FineTune(FromBase, WithoutSteps):
    """Keep the base and go on training it without the forgotten data: the control."""

    name: ClassVar[str] = "fine-tune"
    needs: ClassVar[Needs] = Needs()
