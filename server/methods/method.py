"""What every unlearning method is: a pure plan over a pinned base version.

A method says what it needs, makes the attempt's starting point, and says how many recovery rounds
it may take. Everything after that, the recovery rounds, the stop rule and the checks, is the same
code for all methods, so they compare fairly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from fednot.manifest import Manifest


@dataclass(frozen=True)
class Needs:
    """What a method needs beside the base version.

    `layers`: a choice of layers; `initial`: the data-free initial version; `rounds_trained`: how
    many rounds made the base.
    """

    layers: bool = False
    initial: bool = False
    rounds_trained: bool = False


@dataclass(frozen=True)
class StartContext:
    """What a starting point is made from; flat models are never written to.

    `tensors` are the chosen tensors (empty unless the method needs layers); `initial` is None
    unless the method needs it.
    """

    manifest: Manifest
    base: torch.Tensor
    initial: torch.Tensor | None
    tensors: Sequence[str]


class Method(Protocol):
    """One way to unlearn."""

    name: ClassVar[str]
    needs: ClassVar[Needs]
    new_lineage: ClassVar[bool]
    """True if the starting point descends from no trained version."""

    def start(self, context: StartContext) -> torch.Tensor:
        """The flat model that recovery starts from; the same for the same context, always."""
        ...

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The most recovery rounds, if the request does not say.

        `rounds_trained` is 0 unless the method needs it.
        """
        ...
