"""The page of settings, from the frozen settings objects."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from docs.generate import units
from docs.generate.markdown import cell, code, join, table
from docs.generate.programs import PROGRAMS, Program
from docs.generate.verbs import tree
from fednot.settings import POSITIONAL

_SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def page() -> str:
    """Every setting of both daemons, and the variables of `fednot`."""
    daemons = [block for program in PROGRAMS if not program.verb for block in _section(program)]
    return join(
        "# Configuration reference",
        "Each setting by its flag, its environment variable and its key in the file of `--config` "
        "(TOML; `-` may stand for `_`). The flag goes before the variable, the variable before the "
        "file, the file before the default. Any variable with `_FILE` behind its name may name a "
        "file with the value instead. [configuration.md](../configuration.md) explains.",
        *daemons,
        "## `fednot`",
        "It reads no file. These options have a variable:",
        table(("option", "variable"), sorted(set(_variables()))),
    )


def rows(program: Program, *, keys: bool = True) -> Iterator[tuple[str, ...]]:
    """A row for each setting of a program; without `keys` only the flag names it."""
    for name, field in program.kind.model_fields.items():
        flag = _flag(name, field)
        variable, key = f"`{program.prefix}{name.upper()}`", f"`{name}`"
        named = f"{flag}<br>{variable}<br>{key}" if keys and flag.startswith("`--") else flag
        meaning = cell(field.description or "")
        yield named, _default(field), units.of(field), meaning


HEAD = ("setting", "default", "value", "meaning")


def _section(program: Program) -> tuple[str, str]:
    return f"## `{program.title}`", table(HEAD, rows(program))


def _flag(name: str, field: FieldInfo) -> str:
    if field.json_schema_extra == POSITIONAL:
        return f"`{name.upper()}`"
    flag = f"--{name.replace('_', '-')}"
    return f"`{flag}`, `--no-{flag[2:]}`" if field.annotation is bool else f"`{flag}`"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return _shown(field.get_default(call_default_factory=True), field)


def _shown(value: Any, field: FieldInfo) -> str:
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return code(" ".join(str(part) for part in value))
    if field.annotation is ByteSize:
        return code(_size(int(value)))
    if isinstance(value, enum.Enum):
        return code(value.value)
    return code(f"{value:.10g}" if isinstance(value, float) else value)


def _size(number: int) -> str:
    return next(
        (f"{number // unit}{name}" for unit, name in _SIZES if not number % unit), str(number)
    )


def _variables() -> Iterator[tuple[str, str]]:
    for command in tree():
        for option in command.options:
            for variable in option.variables:
                yield option.named, code(variable)
