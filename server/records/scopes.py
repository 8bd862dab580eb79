"""What is to be forgotten, and what clients were told to bar."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ScopeKind(StrEnum):
    """What kind of thing is forgotten."""

    CLIENT = "client"
    SAMPLES = "samples"
    CLASS = "class"


class Assurance(StrEnum):
    """How far a deletion is verified before its job may end (docs/verification.md)."""

    BEHAVIOUR = "behaviour"
    DEEP = "deep"


@dataclass(frozen=True)
class Scope:
    """One thing that a request forgets.

    CLIENT: `client`. SAMPLES: `client`, and either the key of a person in `subject`, which is
    erased once the client has confirmed, or, for samples that the client has barred itself, their
    `count` and the `sha256` over their salted digests. CLASS: `label`. `tombstone` is the name
    under which clients keep what they bar; "" until the request is accepted, and for a CLIENT.
    """

    kind: ScopeKind
    client: str = ""
    subject: str = ""
    label: int | None = None
    count: int | None = None
    sha256: str = ""
    tombstone: str = ""


@dataclass(frozen=True)
class ForgetOrder:
    """What a client was told to bar, or, with `lift`, to admit again, and what it answered.

    Until `confirmed_at` it takes part in no round. `refusal` says why it cannot bar it.
    """

    id: int
    client: str
    scope: Scope
    job_id: str
    ordered_at: float
    lift: bool = False
    confirmed_at: float | None = None
    count: int = 0
    sha256: str = ""
    refusal: str = ""
