"""The verb `completion`: the lines with which a shell completes `fednot`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer import completion as shells

PROGRAM = "fednot"
VARIABLE = "_FEDNOT_COMPLETE"

app = typer.Typer()


class Shell(StrEnum):
    """The shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


Install = Annotated[
    bool, typer.Option("--install", help="Write it where this user's shell finds it.")
]


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(help="Which shell.")], install: Install = False
) -> None:
    """Print what makes a shell complete `fednot`, or install it."""
    if install:
        _, path = shells.install(shell=shell.value, prog_name=PROGRAM, complete_var=VARIABLE)
        typer.echo(f"{path}: completion starts with the next terminal")
        return
    typer.echo(
        shells.get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value)
    )
