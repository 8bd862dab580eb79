"""Jobs and their attempts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from fednot.calls import Origin
from server.records.scopes import Assurance, ForgetOrder, Scope
from server.records.scores import Scores
from server.records.verification import Verification
from server.records.versions import DestroyedVersion


class JobPhase(StrEnum):
    """Where a deletion's job stands; `server.phases` holds the allowed moves.

    MERGED: its requests are served by another job, which waited with an equal plan.
    """

    AWAITING = "awaiting"
    QUEUED = "queued"
    NEGATING = "negating"
    RECOVERING = "recovering"
    VERIFYING = "verifying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    MERGED = "merged"


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    ABANDONED = "abandoned"


class StopReason(StrEnum):
    """Why a recovery stopped."""

    TARGET = "target"
    PLATEAU = "plateau"
    BUDGET = "budget"
    CHANCE = "chance"


@dataclass(frozen=True)
class RecoveryPolicy:
    """When recovery stops (DESIGN.md 2.6). `max_rounds` 0 lets the method say."""

    min_rounds: int = 2
    max_rounds: int = 0
    tolerance: float = 0.01
    plateau_rounds: int = 5
    full_budget: bool = False
    chance_rounds: int = 4
    min_clients: int = 2
    round_deadline: float = 600.0


@dataclass(frozen=True)
class RecoveryRound:
    """One recovery round of an attempt."""

    round: int
    version: int
    metrics: Scores


@dataclass(frozen=True)
class Attempt:
    """One try of a job, from its pinned base version.

    `rung` is the place of its plan on the ladder of a deep assurance, 0 for the plan as asked.
    `steps` are the versions that the method's own steps made, between the start and the recovery.
    """

    job_id: str
    number: int
    method: str
    tensors: tuple[str, ...]
    start_version: int
    outcome: AttemptOutcome = AttemptOutcome.RUNNING
    stop_reason: StopReason | None = None
    stopped_at: int = 0
    warnings: tuple[str, ...] = ()
    explanation: str = ""
    rounds: tuple[RecoveryRound, ...] = ()
    rung: int = 0
    verification: Verification | None = None
    steps: tuple[int, ...] = ()

    @property
    def last_version(self) -> int:
        """The version that it has come to."""
        made = (self.start_version, *self.steps, *(each.version for each in self.rounds))
        return made[-1]


@dataclass(frozen=True)
class DestroyedCache:
    """Something made of older versions or of updates that a client kept, and destroyed."""

    kind: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class ClientDestruction:
    """A job's order to a client to destroy what it keeps of generations before `generation`.

    Until it is acknowledged the client gets no other work.
    """

    id: int
    client: str
    job_id: str
    generation: int
    ordered_at: float
    acknowledged_at: float | None = None
    destroyed: tuple[DestroyedCache, ...] = ()


@dataclass(frozen=True)
class Job:
    """The work that serves deletions, those of `requests`.

    `queued_at` is since when it may begin: when it was asked for, or approved if that was needed;
    of several that were merged, the latest. With `retain` the versions that it would destroy are
    kept, and released to nobody, until the hold is lifted. `scopes` and `orders` are those of all
    requests; `chosen_attempt` is the number of the attempt whose model was kept, 0 before; `origin`
    is the call that asked for it first.
    """

    id: str
    phase: JobPhase
    method: str
    layers: str
    allow_unsafe_layers: bool
    policy: RecoveryPolicy
    created_at: float
    base_version: int = 0
    target_accuracy: float | None = None
    released_version: int = 0
    failure: str = ""
    priority: int = 0
    retain: bool = False
    hold_lifted_at: float | None = None
    history: tuple[tuple[JobPhase, float], ...] = ()
    attempts: tuple[Attempt, ...] = ()
    destroyed: tuple[DestroyedVersion, ...] = ()
    caches: tuple[ClientDestruction, ...] = ()
    requests: tuple[str, ...] = ()
    queued_at: float = 0.0
    assurance: Assurance = Assurance.BEHAVIOUR
    chosen_attempt: int = 0
    scopes: tuple[Scope, ...] = ()
    orders: tuple[ForgetOrder, ...] = ()
    has_receipt: bool = False
    origin: Origin = field(default_factory=Origin)
