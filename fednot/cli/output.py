"""Where a command writes: results to stdout, notes and errors to stderr."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Final

import typer
from rich.console import Console, RenderableType

from fednot.cli.failures import CliError

PIPED_WIDTH: Final = 2000


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


class Output:
    """Prints results in the chosen format.

    Rich's markup is off and control characters are dropped, since names and sentences come from
    other machines. Rich itself obeys NO_COLOR.
    """

    def __init__(self, format_: Format) -> None:
        self.json: Final = format_ is Format.JSON
        self.console: Final = _console()

    @property
    def live(self) -> bool:
        """Whether a view that redraws itself can be shown."""
        console = self.console
        return not self.json and console.is_terminal and not console.is_dumb_terminal

    def document(self, value: dict[str, Any]) -> None:
        """Prints the one JSON document of a command."""
        typer.echo(json.dumps(value, indent=2, allow_nan=False))

    def json_line(self, value: dict[str, Any]) -> None:
        """Prints one document of a stream, on a line of its own."""
        typer.echo(json.dumps(value, allow_nan=False))

    def show(self, *renderables: RenderableType) -> None:
        """Prints tables; in a pipe without the blanks that fill a line to the widest one."""
        if self.console.is_terminal:
            for renderable in renderables:
                self.console.print(renderable)
            return
        with self.console.capture() as captured:
            for renderable in renderables:
                self.console.print(renderable)
        for line in captured.get().splitlines():
            typer.echo(line.rstrip())

    def line(self, text: str) -> None:
        """Prints a line of result."""
        typer.echo(printable(text))

    def note(self, text: str) -> None:
        """Prints a line about the course of things to stderr, in both formats."""
        typer.echo(printable(text), err=True)

    def error(self, error: CliError) -> None:
        """Prints an error to stderr, as sentences or as one JSON document."""
        if self.json:
            typer.echo(json.dumps(error.document()), err=True)
            return
        self.note(f"error: {error.message}")
        if error.reason:
            self.note(f"reason: {error.reason}")
        if error.remedy:
            self.note(f"remedy: {error.remedy}")
        if error.call_id:
            self.note(f"call id: {error.call_id}")


def printable(text: str) -> str:
    """The text without control characters, which could drive the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _console() -> Console:
    console = Console(markup=False, highlight=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(markup=False, highlight=False, emoji=False, width=PIPED_WIDTH)
