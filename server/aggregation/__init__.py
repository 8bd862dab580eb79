"""Makes one update of many: by the mean, or by a rule that withstands a few hostile clients.

Pure arithmetic over blocks of bytes; which rule to choose is told in docs/aggregation.md.
"""

from server.aggregation.rules import (
    Aggregate,
    Aggregation,
    Rule,
    RuleName,
    TooFewUpdatesError,
)
from server.aggregation.running_average import RunningAverage

__all__ = [
    "Aggregate",
    "Aggregation",
    "Rule",
    "RuleName",
    "RunningAverage",
    "TooFewUpdatesError",
]
