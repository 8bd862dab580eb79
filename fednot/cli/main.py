"""The control command `fednot`."""

from __future__ import annotations

from typing import Annotated

import typer

from fednot import __version__
from fednot.cli import (
    approvals,
    auditing,
    certs,
    completion,
    console,
    deletions,
    demonstration,
    enrolment,
    federation,
    interrupts,
    models,
    preflight,
    receipts,
    training,
    unlearning,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Control a federation that can forget. Options go behind the verb.",
)
app.add_typer(demonstration.app)
app.add_typer(preflight.app)
app.add_typer(training.app)
app.add_typer(federation.app)
app.add_typer(unlearning.app, name="unlearn")
app.add_typer(deletions.app)
app.add_typer(approvals.app)
app.add_typer(receipts.app)
app.add_typer(auditing.app, name="audit")
app.add_typer(console.app)
app.add_typer(models.app, name="model")
certs.app.add_typer(enrolment.app)
app.add_typer(certs.app, name="certs")
app.add_typer(completion.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fednot {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Control a federation that can forget. Options go behind the verb."""


def main() -> None:
    """Runs the command line of this process."""
    interrupts.heed()
    app(prog_name="fednot")
