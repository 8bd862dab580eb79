"""The verb `completion`: the lines with which a shell completes `fednot`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer
from typer._completion_shared import get_completion_script
from typer._completion_shared import install as install_script

from fednot.cli import panels

PROGRAM: Final = "fednot"
VARIABLE: Final = "_FEDNOT_COMPLETE"

app = typer.Typer()


class Shell(StrEnum):
    """The shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


Install = Annotated[
    bool, typer.Option("--install", help="Write it where this user's shell finds it.")
]


@app.command(rich_help_panel=panels.FIRST_STEPS)
def completion(
    shell: Annotated[Shell, typer.Argument(help="Which shell.")], install: Install = False
) -> None:
    """Print what makes a shell complete `fednot`, or install it."""
    if install:
        _, path = install_script(  # nosec B604 - names a shell, starts none
            shell=shell.value, prog_name=PROGRAM, complete_var=VARIABLE
        )
        typer.echo(f"{path}: completion starts with the next terminal")
        return
    script = get_completion_script(  # nosec B604 - names a shell, starts none
        prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value
    )
    typer.echo(script)
