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
    unless the method needs it. `seed`, of 63 bits, follows from the base version, so that what a
    method draws is the same whenever it is made again.
    """

    manifest: Manifest
    base: torch.Tensor
    initial: torch.Tensor | None
    tensors: Sequence[str]
    seed: int = 0


class Method(Protocol):
    """One way to unlearn."""

    @property
    def name(self) -> str:
        """What requests and records call it, its number included if it takes one."""
        ...

    needs: ClassVar[Needs]
    new_lineage: ClassVar[bool]
    """True if the starting point descends from no trained version."""
    negates: ClassVar[bool]
    """True if the chosen tensors count as negated in the lineage: signs of them are flipped, and
    flipping them again would bring back what was forgotten."""

    def start(self, context: StartContext) -> torch.Tensor:
        """The flat model that recovery starts from; the same for the same context, always."""
        ...

    def undone(self, context: StartContext, flat: torch.Tensor) -> torch.Tensor | None:
        """What who knows how the start was made can do to undo it in a recovered model.

        A new flat model of the same shape, None if there is nothing to undo.
        """
        ...

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The most recovery rounds, if the request does not say.

        `rounds_trained` is 0 unless the method needs it.
        """
        ...
