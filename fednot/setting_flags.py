"""The command line of a daemon, from its settings: a flag for each field, in groups.

The class that declares a field is its group, and that class's docstring is the group's title.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, ByteSize, JsonValue
from pydantic.fields import FieldInfo

POSITIONAL: Final[dict[str, JsonValue]] = {"positional": True}
"""`json_schema_extra` of a field that is an argument without a flag."""
_SHAPES: Final = {
    "HOST:PORT": "HOST:PORT",
    "KEY=VALUE": "KEY=VALUE",
    "http(s)://": "URL",
    "file": "FILE",
    "folder": "FOLDER",
    "directory": "FOLDER",
}
"""What stands for a value whose description begins so."""
_SIZES: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_METAVARS: Final = {int: "N", float: "NUMBER", ByteSize: "BYTES", Path: "PATH"}


def groups(kind: type[BaseModel]) -> Mapping[str, Mapping[str, FieldInfo]]:
    """The fields by the title of their group, in the order of the bases; "" is of its own."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for declaring in kind.__mro__:
        own = inspect.get_annotations(declaring)
        fields = {name: kind.model_fields[name] for name in own if name in kind.model_fields}
        if fields:
            found["" if declaring is kind else _title(declaring)] = fields
    return found


def _unchanged(action: argparse.Action, field: FieldInfo | None) -> None:
    """Leaves the action of a field, or of --config, as it is."""


def parser(
    kind: type[BaseModel],
    program: str,
    version: str,
    each: Callable[[argparse.Action, FieldInfo | None], None] = _unchanged,
) -> argparse.ArgumentParser:
    """A parser of a program's flags; what is not given is not in its namespace.

    `each` may change the action of a field, or of --config, which is no field.
    """
    made = argparse.ArgumentParser(
        prog=program,
        usage=" ".join([program, *_places(kind), "[--FLAG VALUE ...]"]),
        description=kind.__doc__,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    each(made.add_argument("--config", metavar="FILE", help="a TOML file of these settings"), None)
    made.add_argument("--version", action="version", version=version)
    for title, fields in groups(kind).items():
        group = made.add_argument_group(title) if title else made
        for name, field in fields.items():
            each(_add(group, name, field), field)
    return made


def metavar(field: FieldInfo) -> str:
    """What stands for a flag's value: HOST:PORT, SECONDS, {auto,never}, N."""
    kind = _inner(field.annotation)
    if values := values_of(field):
        return f"{{{','.join(values)}}}"
    text = field.description or ""
    for start, shown in _SHAPES.items():
        if text.startswith(start):
            return shown
    if kind is float and text.startswith("seconds"):
        return "SECONDS"
    return _METAVARS.get(kind, "TEXT")


def values_of(field: FieldInfo) -> tuple[str, ...]:
    """The values that a field may have, less the empty one; none if there is no list of them."""
    kind = _inner(field.annotation)
    named = get_args(kind) if get_origin(kind) is Literal else ()
    return tuple(str(value) for value in named if value != "")


def default_text(field: FieldInfo) -> str:
    """The default as it would be typed: "600", "4MiB", "yes"; "" for none, or if it is required."""
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(str(part) for part in value)
    if field.annotation is ByteSize:
        return _size(int(value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _add(group: argparse._ActionsContainer, name: str, field: FieldInfo) -> argparse.Action:
    flag = f"--{name.replace('_', '-')}"
    text = (field.description or "").replace("%", "%%")
    default = default_text(field).replace("%", "%%")
    shown = f"{text} (default {default})" if default not in ("", "no") else text
    if field.json_schema_extra == POSITIONAL:
        return group.add_argument(name, metavar=name.upper(), help=text)
    if field.annotation is bool:
        return group.add_argument(flag, action=argparse.BooleanOptionalAction, help=shown)
    repeated = get_origin(field.annotation) is tuple
    action = "append" if repeated else "store"
    return group.add_argument(flag, action=action, metavar=metavar(field), help=shown)


def _places(kind: type[BaseModel]) -> list[str]:
    fields = kind.model_fields.items()
    return [name.upper() for name, field in fields if field.json_schema_extra == POSITIONAL]


def _title(declaring: type) -> str:
    return (declaring.__doc__ or "").strip().partition(".")[0]


def _inner(kind: Any) -> Any:
    """The type without `| None`."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    return parts[0] if NoneType in get_args(kind) else kind


def _size(number: int) -> str:
    return next(
        (f"{number // unit}{name}" for unit, name in _SIZES if not number % unit), str(number)
    )
