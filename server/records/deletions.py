"""Deletions: requests with the jobs that serve them."""

from __future__ import annotations

from dataclasses import dataclass, field

from fednot.calls import Origin
from server.records.approvals import Approval
from server.records.callers import Caller
from server.records.jobs import Job, RecoveryPolicy
from server.records.scopes import Assurance, ForgetOrder, Scope


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
    scopes: tuple[Scope, ...] = ()
    orders: tuple[ForgetOrder, ...] = ()


@dataclass(frozen=True)
class DeletionAsk:
    """What a caller asks for: the payload of Unlearn, with the server's defaults filled in.

    `digest` is over the payload as it was sent, so that changed defaults do not change it. Of the
    deletions that wait, the one of the highest `priority` goes first, and of equal ones that with
    the earliest `not_after`, in seconds since the epoch. `origin` is the call that asks.
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
    scopes: tuple[Scope, ...] = ()
    assurance: Assurance = Assurance.BEHAVIOUR
    origin: Origin = field(default_factory=Origin)
