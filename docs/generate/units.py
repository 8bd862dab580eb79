"""What a setting is counted in and what it may be, from its type, its limits and its sentence."""

from __future__ import annotations

import re
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import ByteSize
from pydantic.fields import FieldInfo

_UNITS: Final = (
    (r"^seconds\b|\bseconds (that|a|an|between|before)\b", "s"),
    (r"\bbytes/s\b", "bytes/s"),
    (r"^share\b", "ratio"),
    (r"^accuracy\b", "ratio"),
    (r"^(recovery )?rounds?\b", "rounds"),
    (r"\bclients?\b", "clients"),
    (r"^(calls|joins|enrolments)\b.*\bminute\b", "per minute"),
)
_LIMITS: Final = (("ge", "from {}"), ("gt", "above {}"), ("le", "up to {}"), ("lt", "below {}"))


def of(field: FieldInfo) -> str:
    """What a value may be, with its unit: "s, above 0", "`auto` or `never`", "a path"."""
    kind = _inner(field.annotation)
    if kind is bool:
        return "yes or no"
    if get_origin(kind) is Literal:
        return " or ".join(f"`{each}`" if each else "empty" for each in get_args(kind))
    if kind is ByteSize:
        return ", ".join(["bytes", *_limits(field)])
    if kind in (int, float):
        return ", ".join([_unit(field) or _number(kind), *_limits(field)])
    if kind is Path:
        return "a path"
    return "texts" if get_origin(kind) is tuple else "a text"


def _inner(kind: Any) -> Any:
    """The type without `| None`."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    return parts[0] if NoneType in get_args(kind) else kind


def _unit(field: FieldInfo) -> str:
    text = field.description or ""
    return next((unit for pattern, unit in _UNITS if re.search(pattern, text)), "")


def _number(kind: type) -> str:
    return "a whole number" if kind is int else "a number"


def _limits(field: FieldInfo) -> list[str]:
    return [
        shown.format(_short(getattr(limit, name)))
        for name, shown in _LIMITS
        for limit in field.metadata
        if getattr(limit, name, None) is not None
    ]


def _short(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"
