"""What every unlearning method is: a pure plan over a pinned base version.

A method says what it needs, makes the attempt's starting point, may take steps of its own before
the recovery, and says how many recovery rounds it may take. The recovery rounds, the stop rule and
the checks are the same code for all methods, so they compare fairly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Final, Protocol

import torch

from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task

TRAIN: Final = "train"


@dataclass(frozen=True)
class Needs:
    """What a method needs beside the base version.

    `layers`: a choice of layers; `initial`: the data-free initial version; `rounds_trained`: how
    many rounds made the base; `history`: the updates that the server was told to keep; `target`:
    the clients whose data is forgotten, online; `proxy`: the Task on the server, with unlabelled
    data of its own.
    """

    layers: bool = False
    initial: bool = False
    rounds_trained: bool = False
    history: bool = False
    target: bool = False
    proxy: bool = False


@dataclass(frozen=True)
class PastUpdate:
    """A client's update that was kept: `load` reads it, flat, uint8 of shape [nbytes]."""

    client: str
    num_examples: int
    load: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class PastRound:
    """The updates that were kept of one round; `stride` rounds were trained from it to the next."""

    updates: Sequence[PastUpdate]
    stride: int = 1


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


@dataclass(frozen=True)
class StepContext:
    """What a step is made from.

    `made` reads the flat models of the attempt so far: its start, then what each step made.
    `history` holds the kept rounds that made the base, oldest first, `forgotten` the clients whose
    data is forgotten, `share` (a ratio) their part of all examples. `task` and `proxy` are the
    server's, if it has them.
    """

    start: StartContext
    made: Sequence[Callable[[], torch.Tensor]]
    forgotten: frozenset[str]
    share: float = 0.0
    history: Sequence[PastRound] = ()
    task: Task | None = None
    proxy: SampleDataset | None = None


class Participants(StrEnum):
    """Who works in a step: those who are kept, those whose data is forgotten, or both."""

    RETAINED = "retained"
    TARGET = "target"
    ALL = "all"


@dataclass(frozen=True)
class ServerStep:
    """A step that needs no client: `change` makes the next flat model.

    It is given a function that says when to stop. `past` is a kept round that is part of what was
    made, so that the history goes on from it.
    """

    change: Callable[[Callable[[], bool]], torch.Tensor]
    past: PastRound | None = None


@dataclass(frozen=True)
class ClientStep:
    """A round of named work (`fednot.unlearning`), whose updates are averaged and added to `given`.

    `reference` is sent along to those who forget. `config` is in addition to the run's.
    `transformed` changes each update, flat, before it is averaged; with `keeps` what was averaged
    is added to the history.
    """

    who: Participants
    given: Callable[[], torch.Tensor]
    work: str = TRAIN
    target_work: str = TRAIN
    config: Mapping[str, float] = field(default_factory=dict)
    reference: Callable[[], torch.Tensor] | None = None
    transformed: Callable[[str, torch.Tensor], torch.Tensor] | None = None
    keeps: bool = False


Step = ServerStep | ClientStep


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

    def steps(self, context: StepContext) -> int:
        """How many steps there are between the start and the recovery."""
        ...

    def step(self, number: int, context: StepContext) -> Step:
        """The step of a number, from 1; the same for the same context."""
        ...

    @property
    def recovery_work(self) -> str:
        """The named work that retained clients do in a recovery round."""
        ...


class WithoutSteps:
    """Of a method that has a start and no more: recovery is ordinary training."""

    def steps(self, _context: StepContext) -> int:
        """None."""
        return 0

    def step(self, number: int, _context: StepContext) -> Step:
        """Raises ValueError, since there is none."""
        raise ValueError(f"there is no step {number}")

    @property
    def recovery_work(self) -> str:
        """Ordinary training."""
        return TRAIN
