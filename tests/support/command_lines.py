"""Command lines of the pages, taken apart and parsed as the programs do, without running them."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator

import click
import typer

from client.forget_settings import VERBS
from fednot.cli.main import app
from fednot.settings import Settings, SettingsError, flags, load
from server.maintenance import commands as maintenance

ENDS = {";", "&", "&&", "|", "||", "(", ")"}
LEFT_OUT = {"...", "…", "[options]"}
ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=.*")
DAEMONS: dict[str, dict[str, type[Settings]]] = {
    "fednot-server": dict(maintenance.VERBS),
    "fednot-client": dict(VERBS),
}


def simple_commands(line: str) -> Iterator[list[str]]:
    """The commands of a line as words, without variables before them and redirections behind."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in ENDS:
            words.append(word)
            continue
        while words and ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        redirected = next(
            (at for at, each in enumerate(words) if each.startswith(("<", ">"))), len(words)
        )
        if words[:redirected]:
            yield words[:redirected]
        words = []


def fault_of(words: list[str]) -> str:
    """Why the program of a command would refuse its words; "" if it would not, or is another."""
    given = [word for word in words[1:] if word not in LEFT_OUT]
    whole = len(given) == len(words) - 1
    if words[0] == "fednot":
        return _of_control(given, whole=whole)
    if words[0] in DAEMONS:
        return _of_daemon(words[0], given, whole=whole)
    return ""


@functools.cache
def control() -> click.Command:
    """The command `fednot` with its verbs."""
    return typer.main.get_command(app)


def _of_control(words: list[str], *, whole: bool) -> str:
    command = control()
    name: str | None = "fednot"
    context: click.Context | None = None
    try:
        while True:
            context = command.make_context(name, list(words), parent=context)
            words = [*getattr(context, "_protected_args", []), *context.args]
            if not isinstance(command, click.Group) or not words:
                return ""
            name, below, words = command.resolve_command(context, words)
            assert below is not None
            command = below
    except click.exceptions.Exit:
        return ""
    except click.MissingParameter as error:
        return error.format_message() if whole else ""
    except click.ClickException as error:
        message = error.format_message()
        return "" if "does not exist" in message else message


def _of_daemon(program: str, words: list[str], *, whole: bool) -> str:
    kinds = DAEMONS[program]
    verb = words[0] if words and words[0] in kinds else ""
    rest = words[1:] if verb else words
    try:
        if whole:
            load(kinds[verb], program=program, prefix="NONE_", arguments=rest, environment={})
        else:
            flags(kinds[verb], program, [word for word in rest if not word.isupper()])
    except (SettingsError, SystemExit) as error:
        return str(error) if isinstance(error, SettingsError) or error.code else ""
    return ""
