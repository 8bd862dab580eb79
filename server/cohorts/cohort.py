"""What a cohort is to the coordinator: send a plan to clients, get their answers.

Over gRPC, in one process, or elsewhere: the coordinator cannot tell the difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch

from fednot.codecs import Codec
from fednot.errors import FednotError
from server.blocks import Block
from server.records import RoundPhase, Scores, Version


class WorkKind(StrEnum):
    """What the clients of a plan do."""

    TRAIN = "train"
    EVALUATE = "evaluate"


@dataclass(frozen=True)
class WorkPlan:
    """Work for a cohort: `deadline` seconds from its start, `round` 0 outside of rounds.

    `release` gives back the pages of a part of `flat` that was read, if they are on disk.
    """

    kind: WorkKind
    round: int
    phase: RoundPhase
    version: Version
    flat: torch.Tensor
    clients: tuple[str, ...]
    deadline: float
    seed: int = 0
    config: Mapping[str, float] = field(default_factory=dict)
    release: Callable[[int, int], None] = lambda _start, _stop: None

    def seed_of(self, client: str) -> int:
        """The seed of one client in this round (63 bits), the same in every process."""
        text = f"{self.seed}/{self.round}/{client}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


@dataclass(frozen=True)
class Update:
    """A client's complete update, as it was encoded.

    Call `settle` once: None if it counts, else the refusal. From then on `payload` is not the
    update's any more.
    """

    client: str
    num_examples: int
    payload: Block
    codec: Codec
    metrics: Scores
    settle: Callable[[FednotError | None], None]


@dataclass(frozen=True)
class Evaluation:
    """A client's scores on its own held-out data."""

    client: str
    num_examples: int
    metrics: Scores


@dataclass(frozen=True)
class NoAnswer:
    """A client that is no longer waited for, and why."""

    client: str
    reason: str


Answer = Update | Evaluation | NoAnswer


class Cohort(Protocol):
    """The clients that can be reached.

    `keeps_caches` says whether they may hold something of older versions beside their own data.
    """

    keeps_caches: bool

    def connected(self) -> frozenset[str]:
        """Clients that are there now, barred ones included."""
        ...

    def last_seen(self, client: str) -> float | None:
        """When a client was last heard of, in seconds since the epoch; None if never."""
        ...

    def can_evaluate(self, client: str) -> bool:
        """Whether a connected client holds data to evaluate on."""
        ...

    async def wait_for_change(self, seconds: float) -> None:
        """Waits until who is connected may have changed, at most this long."""
        ...

    def work(self, plan: WorkPlan) -> AsyncGenerator[Answer, None]:
        """Yields one answer for each client of the plan, as they come, until its deadline.

        Closing the generator early ends the work: what comes later is refused.
        """
        ...
