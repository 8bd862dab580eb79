"""Figures that others published, from published.toml, beside which a report shows its own."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

FILE: Final = Path(__file__).with_name("published.toml")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedRow(_Part):
    """One method, in per cent and points; None where it is not known.

    `gaps` are given only where the figures themselves are not.
    """

    method: str
    retain: float | None = None
    forget: float | None = None
    test: float | None = None
    mia: float | None = None
    average_gap: float | None = None
    gaps: dict[str, float] = {}


class PublishedSetting(_Part):
    """One table; `models` and `partitions` are the names in the lab that it is shown beside.

    `confidence_attack`: its membership figure is the MIA-efficacy and not the balanced attack.
    """

    title: str
    dataset: str
    models: tuple[str, ...]
    partitions: tuple[str, ...]
    confidence: str
    mia: str
    confidence_attack: bool = False
    row: tuple[PublishedRow, ...]


class _File(_Part):
    setting: tuple[PublishedSetting, ...]


@cache
def published() -> tuple[PublishedSetting, ...]:
    """All of them."""
    return _File.model_validate(tomllib.loads(FILE.read_text(encoding="utf-8"))).setting


def beside(dataset: str, model: str, partition: str) -> tuple[PublishedSetting, ...]:
    """Those to show beside a group; names are the same if their letters and digits are."""
    return tuple(
        one
        for one in published()
        if _plain(one.dataset) == _plain(dataset)
        and _plain(model) in map(_plain, one.models)
        and _plain(partition) in map(_plain, one.partitions)
    )


def _plain(name: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))
