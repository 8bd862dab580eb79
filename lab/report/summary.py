"""A report's figures as JSON, for programs: the same that its tables show, not rounded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Final

from lab.membership.study import LiraResult
from lab.report.frontier import Point
from lab.report.groups import Group, Trouble
from lab.report.measures import Measured, Spreads
from lab.report.published import beside

FORMAT: Final = 1


def summary_of(
    groups: Sequence[Mapping[str, Any]], troubles: Sequence[Trouble], lira: LiraResult | None
) -> str:
    """The JSON text; accuracies are shares from 0 to 1, published figures per cent."""
    found = {
        "format": FORMAT,
        "groups": list(groups),
        "troubles": [asdict(trouble) for trouble in troubles],
        "lira": lira.model_dump(mode="json") if lira else None,
    }
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def group_of(
    group: Group,
    measured: Sequence[Measured],
    before: Spreads,
    points: Sequence[Point],
    claims: Sequence[str],
) -> dict[str, Any]:
    """One group as plain values."""
    published = beside(group.dataset, group.model, group.partition)
    return {
        "dataset": group.dataset,
        "model": group.model,
        "partition": group.partition,
        "claims": list(claims),
        "before": _plain(before),
        "methods": {
            one.name: {**_plain(one), "passes": one.passes, "always_reached": one.always_reached}
            for one in measured
        },
        "frontier": [_plain(point) for point in points],
        "published": [one.model_dump(mode="json", exclude_none=True) for one in published],
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(each) for name, each in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value
