"""The words of the federation as immutable records (DESIGN.md, section 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from fednot.identity.subject import Role

Scores = Mapping[str, float]


class VersionOrigin(StrEnum):
    """How a version came to be."""

    INITIAL = "initial"
    TRAINING = "training"
    UNLEARNING = "unlearning"
    RECOVERY = "recovery"


class RoundPhase(StrEnum):
    """Why a round is run."""

    TRAINING = "training"
    RECOVERY = "recovery"


class RoundOutcome(StrEnum):
    """How a round ended."""

    RUNNING = "running"
    COMPLETED = "completed"
    DEGRADED = "degraded"
    FAILED = "failed"
    ABORTED = "aborted"


class RunState(StrEnum):
    """The state of a training run."""

    ACTIVE = "active"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


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


class ApprovalKind(StrEnum):
    """What an approval is for."""

    DELETION = "deletion"
    READMISSION = "readmission"


class ApprovalState(StrEnum):
    """Where an approval stands."""

    WAITING = "waiting"
    APPROVED = "approved"
    REFUSED = "refused"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class AuditOutcome(StrEnum):
    """What became of what was asked."""

    ACCEPTED = "accepted"
    REFUSED = "refused"


class WaitKind(StrEnum):
    """What kind of thing the server waits for."""

    CLIENTS = "clients"
    RETRY = "retry"
    FAULT = "fault"
    ROOM = "room"
    DESTRUCTION = "destruction"


class StopReason(StrEnum):
    """Why a recovery stopped."""

    TARGET = "target"
    PLATEAU = "plateau"
    BUDGET = "budget"
    CHANCE = "chance"


@dataclass(frozen=True)
class Caller:
    """Who called; no role and no name for a caller who showed no certificate.

    `expires_at` is when its certificate ends, in seconds since the epoch.
    """

    role: Role | None = None
    name: str = ""
    expires_at: float | None = None

    @property
    def key(self) -> str:
        """Role and name, such as `officer/dora`; "" without a certificate."""
        return f"{self.role}/{self.name}" if self.role else ""

    @property
    def who(self) -> str:
        """The key for a sentence, which somebody without a certificate has as well."""
        return self.key or "somebody without a certificate"

    @classmethod
    def of_key(cls, key: str) -> Self:
        """The caller of a key. Raises ValueError if it has no known role."""
        role, _, name = key.partition("/")
        return cls(Role(role), name) if key else cls()


NOBODY: Final = Caller()


@dataclass(frozen=True)
class Version:
    """An immutable version of the global model; its bytes are in the model store under sha256.

    `held_by` is the job that keeps it for a legal hold, "" if none does.
    """

    number: int
    sha256: str
    parent: int
    generation: int
    lineage: int
    origin: VersionOrigin
    round: int
    created_at: float
    num_bytes: int
    metrics: Scores = field(default_factory=dict)
    negated_tensors: tuple[str, ...] = ()
    destroyed_at: float | None = None
    held_by: str = ""


@dataclass(frozen=True)
class RoundPolicy:
    """How the rounds of a run are made; times in seconds, shares from 0 to 1."""

    fraction: float = 1.0
    quorum: float = 0.5
    deadline: float = 600.0
    min_clients: int = 2
    client_wait: float = 600.0


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
class Run:
    """A training run."""

    id: int
    rounds: int
    rounds_done: int
    state: RunState
    started_at: float
    policy: RoundPolicy
    config: Mapping[str, float]
    failure: str = ""


@dataclass(frozen=True)
class Round:
    """One round; `missing` says of each client whose update did not count why."""

    number: int
    phase: RoundPhase
    outcome: RoundOutcome
    base_version: int
    cohort: tuple[str, ...]
    started_at: float
    run_id: int = 0
    job_id: str = ""
    attempt: int = 0
    result_version: int = 0
    missing: Mapping[str, str] = field(default_factory=dict)
    metrics: Scores = field(default_factory=dict)
    ended_at: float | None = None


@dataclass(frozen=True)
class RecoveryRound:
    """One recovery round of an attempt."""

    round: int
    version: int
    metrics: Scores


@dataclass(frozen=True)
class Attempt:
    """One try of a job, from its pinned base version."""

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


@dataclass(frozen=True)
class DestroyedVersion:
    """A version whose bytes a job destroyed."""

    number: int
    sha256: str


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
    kept, and released to nobody, until the hold is lifted.
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


@dataclass(frozen=True)
class Approval:
    """The word of a second identity that a deletion or readmission waits for, or has got.

    `requested_by` and `decided_by` are keys of callers; `job_id` is "" for a readmission.
    """

    id: str
    kind: ApprovalKind
    client: str
    requested_by: str
    requested_at: float
    expires_at: float
    job_id: str = ""
    state: ApprovalState = ApprovalState.WAITING
    decided_by: str = ""
    decided_at: float | None = None


@dataclass(frozen=True)
class Deletion:
    """A request with the job that serves it, the key of who asked, and its second approval.

    `overdue` says that its job had not completed at `not_after`, in seconds since the epoch.
    """

    request_id: str
    client: str
    accepted_at: float
    job: Job
    aborted_rounds: tuple[int, ...] = ()
    requested_by: str = ""
    approval: Approval | None = None
    not_after: float | None = None
    overdue: bool = False


@dataclass(frozen=True)
class DeletionAsk:
    """What a caller asks for: the payload of Unlearn, with the server's defaults filled in.

    `digest` is over the payload as it was sent, so that changed defaults do not change it. Of the
    deletions that wait, the one of the highest `priority` goes first, and of equal ones that with
    the earliest `not_after`, in seconds since the epoch.
    """

    caller: Caller
    request_id: str
    client: str
    method: str
    layers: str
    allow_unsafe_layers: bool
    policy: RecoveryPolicy
    digest: str
    priority: int = 0
    not_after: float | None = None
    retain: bool = False


@dataclass(frozen=True)
class AuditEvent:
    """Something that is to be written to the audit.

    `action` is a call such as `DeletionService.Unlearn`. `subject` is a name such as `client/c3`,
    or a pseudonym that stands as it is. `count` is how many times in a row it happened.
    """

    caller: Caller
    action: str
    subject: str = ""
    outcome: AuditOutcome = AuditOutcome.ACCEPTED
    reason: str = ""
    job_id: str = ""
    version: int = 0
    count: int = 1


@dataclass(frozen=True)
class ClientRecord:
    """A client that has joined at least once."""

    name: str
    joined_at: float
    last_seen_at: float
    num_train_examples: int
    num_test_examples: int
    device: str
    barred_by: str = ""


@dataclass(frozen=True)
class Bar:
    """The tombstone that keeps a client out of every later round."""

    client: str
    request_id: str
    since: float

    @property
    def message(self) -> str:
        """One sentence for the client."""
        return f"client {self.client} is barred by deletion {self.request_id} and may not train"


@dataclass(frozen=True)
class RoundProgress:
    """The round in flight."""

    round: int
    phase: RoundPhase
    cohort: tuple[str, ...]
    accepted: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Clients that are still waited for."""
        answered = {*self.accepted, *self.failed}
        return tuple(name for name in self.cohort if name not in answered)
