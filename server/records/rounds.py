"""Training runs and rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from server.records.scores import Scores


class RoundPhase(StrEnum):
    """Why a round is run."""

    TRAINING = "training"
    RECOVERY = "recovery"
    VERIFICATION = "verification"
    UNLEARNING = "unlearning"


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


@dataclass(frozen=True)
class RoundPolicy:
    """How the rounds of a run are made; times in seconds, shares from 0 to 1."""

    fraction: float = 1.0
    quorum: float = 0.5
    deadline: float = 600.0
    min_clients: int = 2
    client_wait: float = 600.0


@dataclass(frozen=True)
class Run:
    """A training run; `call_id` and `traceparent` are those of the call that started it."""

    id: int
    rounds: int
    rounds_done: int
    state: RunState
    started_at: float
    policy: RoundPolicy
    config: Mapping[str, float]
    failure: str = ""
    call_id: str = ""
    traceparent: str = ""


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
