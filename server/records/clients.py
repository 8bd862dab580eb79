"""Clients, and what bars them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ClientRecord:
    """A client that has joined at least once.

    `unsupported_scopes` says which kinds of scope ("samples", "class", "subject") its Task cannot
    forget, and why.
    """

    name: str
    joined_at: float
    last_seen_at: float
    num_train_examples: int
    num_test_examples: int
    device: str
    barred_by: str = ""
    unsupported_scopes: Mapping[str, str] = field(default_factory=dict)


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
