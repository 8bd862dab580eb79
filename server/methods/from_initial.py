"""What methods have in common that start again from the initial version, in a new lineage."""

from __future__ import annotations

from typing import ClassVar

import torch

from server.methods.from_base import Unchanged
from server.methods.method import StartContext


class FromInitial(Unchanged):
    """Starts from the version that holds no data."""

    new_lineage: ClassVar[bool] = True

    def start(self, context: StartContext) -> torch.Tensor:
        """The initial version. Raises ValueError if the context lacks it."""
        if context.initial is None:
            raise ValueError("starting again needs the initial version")
        return context.initial.clone()
