"""Names of metrics in PromQL, and those that docs/metrics.md lists."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
OF_PROMETHEUS = {"up", "ALERTS"}
LEFT_OUT = re.compile(
    r"\"[^\"]*\"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
)
NAME = re.compile(r"(?<![\w:.])[a-zA-Z_][\w:]*(?!\s*\(|[\w:])")
WORDS = {"and", "or", "unless", "offset", "bool"}
AGGREGATIONS = {"sum", "min", "max", "avg", "count", "topk"}


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression names, without the suffixes of histograms."""
    bare = expression
    for _ in range(2):
        bare = LEFT_OUT.sub(" ", bare)
    names = set(NAME.findall(bare)) - WORDS - AGGREGATIONS
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def documented_metrics() -> set[str]:
    """Every metric of docs/metrics.md, and Prometheus' own."""
    return OF_PROMETHEUS | set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.MULTILINE))
