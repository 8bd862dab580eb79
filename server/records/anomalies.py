"""What can be odd about an update."""

from __future__ import annotations

from enum import StrEnum, auto


class Anomaly(StrEnum):
    """Kinds of oddities. The first ones are refusals, the others are counted only."""

    NOT_FINITE = auto()
    WRONG_SIZE = auto()
    WRONG_CHECKSUM = auto()
    WRONG_MANIFEST = auto()
    WRONG_NUM_EXAMPLES = auto()
    INVALID_STREAM = auto()
    STALE = auto()
    CLIPPED = auto()
    LEFT_OUT = auto()
    OUTLIER_NORM = auto()
    OPPOSED = auto()
