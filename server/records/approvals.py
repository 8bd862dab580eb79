"""Second approvals."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
