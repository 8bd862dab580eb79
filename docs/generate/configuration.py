"""The page of settings, from the frozen settings objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic.fields import FieldInfo

from docs.generate import units
from docs.generate.markdown import cell, code, join, table
from docs.generate.programs import PROGRAMS, Program
from docs.generate.verbs import tree
from fednot.setting_flags import POSITIONAL, default_text, groups


def page() -> str:
    """Every setting of both daemons, and the variables of `fednot`."""
    daemons = [part for program in PROGRAMS if not program.verb for part in _section(program)]
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


def rows(
    program: Program, fields: Mapping[str, FieldInfo], *, keys: bool = True
) -> Iterator[tuple[str, ...]]:
    """A row for each of a program's settings; without `keys` only the flag names it."""
    for name, field in fields.items():
        flag = _flag(name, field)
        variable, key = f"`{program.prefix}{name.upper()}`", f"`{name}`"
        named = f"{flag}<br>{variable}<br>{key}" if keys and flag.startswith("`--") else flag
        meaning = cell(field.description or "")
        yield named, _default(field), units.of(field), meaning


HEAD = ("setting", "default", "value", "meaning")


def _section(program: Program) -> Iterator[str]:
    yield f"## `{program.title}`"
    for title, fields in groups(program.kind).items():
        yield f"### {title}" if title else ""
        yield table(HEAD, rows(program, fields))


def _flag(name: str, field: FieldInfo) -> str:
    if field.json_schema_extra == POSITIONAL:
        return f"`{name.upper()}`"
    flag = f"--{name.replace('_', '-')}"
    return f"`{flag}`, `--no-{flag[2:]}`" if field.annotation is bool else f"`{flag}`"


def _default(field: FieldInfo) -> str:
    text = "required" if field.is_required() else default_text(field)
    return text if text in ("required", "yes", "no") else code(text)


def _variables() -> Iterator[tuple[str, str]]:
    for command in tree():
        for option in command.options:
            for variable in option.variables:
                yield option.named, code(variable)
