"""The parts of a running federation, and what is going on in it now."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from sqlalchemy import Connection

from server.aggregation import Aggregation
from server.anomalies import Anomalies
from server.blocks import Memory
from server.cohorts.cohort import Cohort
from server.destruction import Destructions, NoDestructions
from server.evaluation import ServerEvaluator
from server.fences import Fences
from server.forgetting import Forgettings, NoForgettings
from server.global_model import GlobalModel
from server.interruption import Interruptible
from server.ledger.file import Ledger
from server.metrics import Metrics
from server.pulse import Pulse
from server.receipts.desk import NoReceipts, Receipts
from server.records import (
    Anomaly,
    Bar,
    RecoveryPolicy,
    RoundPhase,
    RoundPolicy,
    RoundProgress,
    VerificationPolicy,
    WaitKind,
)
from server.room import Room
from server.secure_aggregation.attempt import Attempts, MaskingPolicy
from server.state import client_rows, forget_rows, scope_rows
from server.state.database import Database
from server.update_history import UpdateHistory
from server.verification.server_data import ServerData

log = logging.getLogger("server")

_TRAINING, _RECOVERY = RoundPhase.TRAINING, RoundPhase.RECOVERY


@dataclass(frozen=True)
class Defaults:
    """What a request that leaves a field unset gets; times in seconds.

    With `require_approval` a deletion or readmission waits for a second identity, at most
    `approval_expiry`. `accumulator` is the precision of a round's sum. Recovery rounds and those of
    verification have `recovery_aggregation`, if given. A job waits at most
    `confirmation_wait` for a client to confirm what it forgets, and a method that needs it at most
    `target_wait` for the client whose data is forgotten. `ladder` has the plans that a deep
    assurance tries one after the other: see `rung_of` for what they are.
    `recovery_momentum` is the share of the last recovery step that the next one adds.
    """

    rounds: RoundPolicy = field(default_factory=RoundPolicy)
    recovery: RecoveryPolicy = field(default_factory=RecoveryPolicy)
    recovery_rounds: int = 20
    recovery_momentum: float = 0.0
    job_deadline: float = 30 * 24 * 3600.0
    round_retries: int = 3
    retry_wait: float = 2.0
    keep_versions: int = 5
    destruction_wait: float = 10.0
    accumulator: torch.dtype = torch.float32
    aggregation: Aggregation = field(default_factory=Aggregation)
    recovery_aggregation: Aggregation | None = None
    seed: int = 0
    require_approval: bool = False
    approval_expiry: float = 7 * 24 * 3600.0
    confirmation_wait: float = 7 * 24 * 3600.0
    target_wait: float = 600.0
    verification: VerificationPolicy = field(default_factory=VerificationPolicy)
    ladder: tuple[str, ...] = ("shrink-and-perturb:0.3", "retrain")

    def aggregation_of(self, phase: RoundPhase) -> Aggregation:
        """How the updates of a round are aggregated."""
        if phase is RoundPhase.TRAINING or self.recovery_aggregation is None:
            return self.aggregation
        return self.recovery_aggregation

    @property
    def rules(self) -> str:
        """The names of the rules of aggregation, for people."""
        usual, recovery = (self.aggregation_of(p).rule for p in (_TRAINING, _RECOVERY))
        return usual if usual is recovery else f"{usual}, {recovery} in recovery"


@dataclass
class Activity:
    """What the server does now: the round in flight and what it waits for, in a sentence."""

    progress: RoundProgress | None = None
    waiting_for: str = ""
    wait: WaitKind | None = None
    stopping: bool = False


@dataclass
class Federation:
    """Everything that the coordinator works with; with `masking` updates are seen as sums alone."""

    database: Database
    model: GlobalModel
    cohort: Cohort
    evaluator: ServerEvaluator | None
    defaults: Defaults
    metrics: Metrics
    memory: Memory
    ledger: Ledger
    room: Room = field(default_factory=Room)
    fences: Fences = field(default_factory=Fences)
    activity: Activity = field(default_factory=Activity)
    work: Interruptible = field(default_factory=Interruptible)
    changes: Pulse = field(default_factory=Pulse)
    destructions: Destructions = field(default_factory=NoDestructions)
    server_data: ServerData = field(default_factory=ServerData)
    forgettings: Forgettings = field(default_factory=NoForgettings)
    receipts: Receipts = field(default_factory=NoReceipts)
    anomalies: Anomalies = field(default_factory=Anomalies)
    attempts: Attempts = field(default_factory=Attempts)
    masking: MaskingPolicy | None = None
    history: UpdateHistory = field(init=False)

    def __post_init__(self) -> None:
        self.history = UpdateHistory(self.database)

    def eligible(self) -> tuple[str, ...]:
        """Connected clients that may train and have something to train on, by name.

        One that has yet to bar what it was told to may not.
        """
        may = (
            name
            for name in self.cohort.connected()
            if self.fences.may_train(name) and self.cohort.can_train(name)
        )
        return tuple(sorted(may))

    async def reload_fences(self) -> None:
        """Takes over the tombstones that stand now, after a transaction that changed them."""
        bars, owing, labels = await self.database.read(_fences)
        self.fences.load(bars, owing)
        if self.evaluator is not None:
            self.evaluator.forget(labels)
        self.changes.beat()

    def waits_for(self, kind: WaitKind, sentence: str) -> None:
        """Says what the server waits for: in status, job, metric, and once in the log."""
        activity = self.activity
        if kind is not activity.wait:
            log.info("%s", sentence)
            activity.wait = kind
            self.metrics.deletions.show_wait(kind, time.time())
        if sentence != activity.waiting_for:
            activity.waiting_for = sentence
            self.changes.beat()

    def waits_no_more(self) -> None:
        """Says that what was waited for is there, or is no longer wanted."""
        if self.activity.wait is None:
            return
        self.activity.wait, self.activity.waiting_for = None, ""
        self.metrics.deletions.show_wait(None, 0.0)
        self.changes.beat()

    def stops(self) -> None:
        """Says that the server stops, so that nobody who watches keeps it waiting."""
        self.activity.stopping = True
        self.attempts.stop()
        self.changes.beat()

    def notes(self, client: str, kind: Anomaly) -> None:
        """Counts something odd about a client's update."""
        self.anomalies.note(client, kind)
        self.metrics.rounds.odd(kind)

    def shows(self, progress: RoundProgress | None) -> None:
        """Shows the round in flight; None when there is none."""
        self.activity.progress = progress
        self.changes.beat()


def _fences(connection: Connection) -> tuple[Sequence[Bar], Mapping[str, str], frozenset[int]]:
    """Who is barred, who has yet to bar something, and the labels that are forgotten."""
    return (
        client_rows.list_bars(connection),
        forget_rows.owing(connection),
        scope_rows.standing_labels(connection),
    )
