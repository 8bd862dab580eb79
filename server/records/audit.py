"""What is written to the audit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from server.records.callers import Caller


class AuditOutcome(StrEnum):
    """What became of what was asked."""

    ACCEPTED = "accepted"
    REFUSED = "refused"


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
