"""Updates that the server keeps, for methods that need the history of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KeptUpdate:
    """A client's update that was averaged into the successor of `base_version`.

    Its bytes, decoded, are named by `sha256`; at most `stride` rounds are trained from one that is
    kept to the next.
    """

    base_version: int
    client: str
    sha256: str
    num_examples: int
    num_bytes: int
    stride: int


@dataclass(frozen=True)
class StoredUpdates:
    """How many updates there are, or were destroyed: `sha256` is over theirs, sorted, as text."""

    count: int = 0
    num_bytes: int = 0
    sha256: str = ""
