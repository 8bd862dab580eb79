"""What a cohort is to the coordinator: send a plan to clients, get their answers.

Over gRPC, in one process, or elsewhere: the coordinator cannot tell the difference.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import torch

from fednot.calls import Origin, current
from fednot.codecs import Codec
from fednot.errors import FednotError
from fednot.loss_profile import LossProfile
from server.blocks import Block
from server.records import RoundPhase, Scores, Version

if TYPE_CHECKING:
    from server.secure_aggregation.attempt import Attempt


class WorkKind(StrEnum):
    """What the clients of a plan do."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    PROFILE = "profile"


class SampleGroup(StrEnum):
    """A group of a client's samples, seen from a job that forgets some."""

    FORGOTTEN = "forgotten"
    UNSEEN = "unseen"
    RETAINED = "retained"
    TEST = "test"


@dataclass(frozen=True)
class ForgottenData:
    """Which of a client's samples a job forgets: all, or those under tombstones, or of classes."""

    everything: bool = False
    tombstones: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class ProfileOrder:
    """What clients are to look at, for a job. A client that `forgotten` does not name forgets
    nothing. `groups` are by client; at most `max_examples` of each are looked at.
    """

    job_id: str
    groups: Mapping[str, tuple[SampleGroup, ...]]
    forgotten: Mapping[str, ForgottenData] = field(default_factory=dict)
    max_examples: int = 2000


@dataclass(frozen=True)
class UnlearningOrder:
    """Named work (`fednot.unlearning`) in place of ordinary training, for a job.

    `works` names each client's. A client of `forgotten` works on that part of its data, claims at
    most `counts` examples and is given `reference`, flat, if there is one; the others work on what
    they retain.
    """

    job_id: str
    works: Mapping[str, str]
    forgotten: Mapping[str, ForgottenData] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    reference: torch.Tensor | None = None

    def reference_of(self, client: str) -> torch.Tensor | None:
        """The model that a client is given beside the one that it works on."""
        return self.reference if client in self.forgotten else None


@dataclass(frozen=True)
class WorkPlan:
    """Work for a cohort: `deadline` seconds from its start, `round` 0 outside of rounds.

    `release` gives back the pages of a part of `flat` that was read, if they are on disk. A plan
    that is `resumed` was sent before the server started again: its clients may still be at it and
    are given time to come back. `profile` says what to look at in PROFILE work, `masked` how the
    updates of TRAIN work are masked, `unlearning` what such work is if it is not plain training.
    Its `origin` is that of the task which makes it.
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
    resumed: bool = False
    profile: ProfileOrder | None = None
    masked: Attempt | None = None
    unlearning: UnlearningOrder | None = None
    origin: Origin = field(default_factory=current)

    def works_on_forgotten(self, client: str) -> bool:
        """Whether the client is to work on data that is forgotten, barred or not."""
        return self.unlearning is not None and client in self.unlearning.forgotten

    def seed_of(self, client: str) -> int:
        """The seed of one client in this round (63 bits), the same in every process."""
        text = f"{self.seed}/{self.round}/{client}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1

    def work_id_of(self, client: str) -> str:
        """Names one client's work: in a round the same in every process, else a new one."""
        if not self.round:
            return uuid.uuid4().hex
        text = f"{self.version.sha256}/{self.round}/{self.kind}/{client}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


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
class Profiles:
    """How a model does on groups of a client's samples; a group without samples is left out."""

    client: str
    groups: Mapping[SampleGroup, LossProfile]


@dataclass(frozen=True)
class NoAnswer:
    """A client that is no longer waited for, and why."""

    client: str
    reason: str


Answer = Update | Evaluation | Profiles | NoAnswer


class Cohort(Protocol):
    """The clients that can be reached."""

    def connected(self) -> frozenset[str]:
        """Clients that are there now, barred ones included."""
        ...

    def last_seen(self, client: str) -> float | None:
        """When a client was last heard of, in seconds since the epoch; None if never."""
        ...

    def can_train(self, client: str) -> bool:
        """Whether a connected client holds data to train on."""
        ...

    def can_evaluate(self, client: str) -> bool:
        """Whether a connected client holds data to evaluate on."""
        ...

    async def wait_for_change(self, seconds: float) -> None:
        """Waits until who is connected may have changed, at most this long."""
        ...

    def call_back(self) -> None:
        """Makes every client that waits for work ask again at once: there are orders for it."""
        ...

    def work(self, plan: WorkPlan) -> AsyncGenerator[Answer, None]:
        """Yields one answer for each client of the plan, as they come, until its deadline.

        Closing the generator early ends the work: what comes later is refused.
        """
        ...
