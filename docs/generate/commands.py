"""The page of command lines, from the verbs of `fednot` and the parsers of the daemons."""

from __future__ import annotations

from typing import Final

from docs.generate.configuration import HEAD, rows
from docs.generate.markdown import cell, join, sentence, table
from docs.generate.programs import PROGRAMS, Program
from docs.generate.verbs import Command, Option, tree
from fednot.cli.exit_codes import MEANINGS

_OPTION_HEAD: Final = ("option", "default", "value", "meaning")
_CONFIG: Final = ("`--config`", "", "a path", "a TOML file of these settings")
_SHARED: Final = "Connection and output"


def page() -> str:
    """The whole page."""
    commands = list(tree())
    shared = max((_shared(command) for command in commands), key=len)
    codes = [(str(int(each)), cell(text)) for each, text in MEANINGS.items()]
    return join(
        "# Command reference",
        "Every verb and option of `fednot`, `fednot-server` and `fednot-client`. "
        "[cli.md](../cli.md) tells what verbs print and what to think of, "
        "[configuration.md](configuration.md) has variables and keys of the daemons' options.",
        "## Options of every verb that talks to the server",
        table(_OPTION_HEAD, (option.row() for option in shared)),
        *(_section(command, shared) for command in commands),
        *(_daemon(program) for program in PROGRAMS),
        "## Exit codes of `fednot`",
        table(("code", "meaning"), codes),
    )


def _shared(command: Command) -> tuple[Option, ...]:
    return tuple(option for option in command.options if option.panel == _SHARED)


def _section(command: Command, shared: tuple[Option, ...]) -> str:
    talks = set(shared) <= set(command.options)
    own = [option for option in command.options if not talks or option not in shared]
    link = "Further: [the options of every verb](#options-of-every-verb-that-talks-to-the-server)."
    return join(
        f"## `{command.title}`",
        command.meaning,
        f"```text\n{command.usage}\n```",
        table(_OPTION_HEAD, (option.row() for option in own)),
        link if talks else "",
    )


def _daemon(program: Program) -> str:
    return join(
        f"## `{program.title}`",
        sentence(program.kind.__doc__ or ""),
        f"```text\n{program.usage}\n```",
        table(HEAD, [_CONFIG, *rows(program, program.kind.model_fields, keys=False)]),
    )
