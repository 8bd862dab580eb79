"""The verbs of `fednot` with their options, read from typer."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
import typer

from docs.generate.markdown import cell, code, sentence
from fednot.cli.main import app


@dataclass(frozen=True)
class Option:
    """An option or argument: its names, default and value as cells; `panel` is its group."""

    named: str
    default: str
    value: str
    meaning: str
    variables: tuple[str, ...]
    panel: str
    argument: bool

    def row(self) -> tuple[str, ...]:
        """As it stands in the table."""
        return self.named, self.default, self.value, self.meaning


@dataclass(frozen=True)
class Command:
    """A verb, such as `fednot certs list`."""

    title: str
    meaning: str
    options: tuple[Option, ...]

    @property
    def usage(self) -> str:
        """The command line in short."""
        places = [option.named.strip("`") for option in self.options if option.argument]
        return " ".join([self.title, *places, "[options]"])


def tree() -> Iterator[Command]:
    """Every verb of `fednot`, those below others too, in the order of `--help`."""
    yield from _below(typer.main.get_command(app), "fednot")


def _below(command: click.Command, title: str) -> Iterator[Command]:
    group = command if isinstance(command, click.Group) else None
    if group is None or group.invoke_without_command or title == "fednot":
        options = tuple(_option(each) for each in command.params if _shown(each))
        yield Command(title, sentence(command.help or ""), options)
    if group is None:
        return
    with click.Context(command, info_name=title) as context:
        for name in group.list_commands(context):
            below = group.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _below(below, f"{title} {name}")


def _shown(parameter: click.Parameter) -> bool:
    return not getattr(parameter, "hidden", False) and parameter.name != "help"


def _option(parameter: click.Parameter) -> Option:
    argument = isinstance(parameter, click.Argument)
    names = [*parameter.opts, *parameter.secondary_opts]
    place = (parameter.metavar or parameter.name or "").upper()
    variable = parameter.envvar or ()
    return Option(
        named=code(place) if argument else ", ".join(f"`{name}`" for name in names),
        default=_default(parameter),
        value=_value(parameter),
        meaning=cell(sentence(getattr(parameter, "help", None) or "")),
        variables=(variable,) if isinstance(variable, str) else tuple(variable),
        panel=getattr(parameter, "rich_help_panel", None) or "",
        argument=argument,
    )


def _default(parameter: click.Parameter) -> str:
    if parameter.required:
        return "required"
    told = getattr(parameter, "show_default", None)
    if isinstance(told, str):
        return cell(told)
    value: Any = parameter.default
    if callable(value) or value is None or value is False or value in ("", [], ()):
        return ""
    if isinstance(value, enum.Enum):
        value = value.value
    return code(f"{value:g}" if isinstance(value, float) else value)


def _value(parameter: click.Parameter) -> str:
    kind = parameter.type
    again = ", repeatable" if getattr(parameter, "multiple", False) or parameter.nargs < 0 else ""
    if getattr(parameter, "is_flag", False):
        return "a switch"
    if isinstance(kind, click.Choice):
        return " or ".join(f"`{_text(each)}`" for each in kind.choices) + again
    if isinstance(kind, click.types.IntRange | click.types.FloatRange):
        return cell(f"{_kind(kind)}{_range(kind)}") + again
    if parameter.metavar and not isinstance(parameter, click.Argument):
        return code(parameter.metavar.replace("|", r"\|")) + again
    return _kind(kind) + again


def _text(choice: object) -> str:
    return str(choice.value if isinstance(choice, enum.Enum) else choice)


def _range(kind: Any) -> str:
    low = "" if kind.min is None else f", from {kind.min:,}"
    return low if kind.max is None else f"{low}, up to {kind.max:,}"


def _kind(kind: click.ParamType[Any]) -> str:
    names = {"integer": "a whole number", "float": "a number", "text": "a text"}
    named = kind.name.removesuffix(" range")
    if named in ("path", "file", "directory") or isinstance(kind, click.Path):
        return "a path"
    return names.get(named, named)
