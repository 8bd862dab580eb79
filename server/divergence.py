"""Whether rounds fail since training diverges, which trying again does not mend. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ROUNDS: Final = 3
"""After so many such rounds in a row an attempt is given up."""
WORDS: Final = "NaN or Inf"
"""What every sentence says that tells of an update which is not finite; a test holds them to it."""


def only_diverged(missing: Mapping[str, str]) -> bool:
    """Whether the updates that are missing, each with its reason, are all not finite."""
    return bool(missing) and all(WORDS in reason for reason in missing.values())
