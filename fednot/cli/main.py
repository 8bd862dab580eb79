"""The control command `fednot`."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer

from fednot import __version__, logs, tracing
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
    panels,
    preflight,
    receipts,
    training,
    unlearning,
)
from fednot.cli.exit_codes import ExitCode
from fednot.cli.groups import Verbs

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Control a federation that can forget. Options go behind the verb, but for these.",
)
app.add_typer(demonstration.app)
app.add_typer(preflight.app)
app.add_typer(training.app)
app.add_typer(federation.app)
app.add_typer(unlearning.app, name="unlearn", cls=Verbs, rich_help_panel=panels.DELETIONS)
app.add_typer(deletions.app)
app.add_typer(approvals.app)
app.add_typer(receipts.app)
app.add_typer(auditing.app, name="audit", cls=Verbs, rich_help_panel=panels.PROOF)
app.add_typer(console.app)
app.add_typer(models.app, name="model", cls=Verbs, rich_help_panel=panels.TRAINING)
certs.app.add_typer(enrolment.app)
app.add_typer(certs.app, name="certs", cls=Verbs, rich_help_panel=panels.IDENTITIES)
app.add_typer(completion.app)


class LogLevel(StrEnum):
    """From which level on lines are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How lines of the log are written."""

    AUTO = "auto"
    JSON = "json"
    HUMAN = "human"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fednot {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="FEDNOT_LOG_LEVEL", help="What is logged to stderr.")
    ] = LogLevel.WARNING,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            envvar="FEDNOT_LOG_FORMAT",
            help="json, human, or auto: human on a terminal and json elsewhere.",
        ),
    ] = LogFormat.AUTO,
    trace_endpoint: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="FEDNOT_TRACE_ENDPOINT",
            help="Where traces are sent, http(s)://HOST:4317 of OTLP; nowhere by default.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Control a federation that can forget. Options go behind the verb, but for these."""
    logs.set_up(log_level.value, log_format.value)
    try:
        tracing.start("fednot", trace_endpoint, os.environ)
    except tracing.TracingError as error:
        raise typer.BadParameter(str(error)) from error
    context.call_on_close(tracing.stop)


def main() -> None:
    """Runs the command line of this process."""
    interrupts.heed()
    try:
        app(prog_name="fednot")
    except SystemExit as ended:
        if ended.code == ExitCode.INTERRUPTED:
            interrupts.leave(ExitCode.INTERRUPTED)
        raise
