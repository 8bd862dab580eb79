"""The verbs that look at the federation: `status`, `clients`, `rounds` and `versions`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from fednot import sentences
from fednot.cli import listing, options, panels, tables
from fednot.cli.documents import document, documents
from fednot.cli.exit_codes import ExitCode
from fednot.cli.groups import Verbs, unless_below
from fednot.cli.session import Session, verb
from fednot.v1 import operator_pb2

RECENT: Final = 20
"""So many of the newest deletions are looked at for one whose verification failed."""

app = typer.Typer()
clients_app = typer.Typer(help="List every client that ever joined.")
app.add_typer(clients_app, name="clients", cls=Verbs, rich_help_panel=panels.TRAINING)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The client to readmit.")]


@app.command(rich_help_panel=panels.TRAINING)
@verb
def status(session: Session) -> ExitCode:
    """Show where the federation stands and what it waits for."""
    found = session.call(session.operator.GetStatus, operator_pb2.GetStatusRequest())
    if session.output.json:
        session.output.document(document(found))
    else:
        session.output.show(tables.status(found, listing.first_deletions(session, RECENT)))
    return ExitCode.DONE


@clients_app.callback(invoke_without_command=True)
@unless_below
@verb
def clients(session: Session) -> ExitCode:
    """List every client that ever joined."""
    found = session.call(session.operator.ListClients, operator_pb2.ListClientsRequest())
    if session.output.json:
        session.output.document({"clients": documents(found.clients)})
    else:
        session.output.show(tables.clients(found.clients))
    return ExitCode.DONE


@clients_app.command()
@verb
def readmit(session: Session, name: Name) -> ExitCode:
    """Lift the bar of a client that was forgotten, or ask for the approval that it takes."""
    request = operator_pb2.ReadmitClientRequest(client=name)
    found = session.call(session.operator.ReadmitClient, request)
    if session.output.json:
        session.output.document(document(found))
    elif found.HasField("approval"):
        session.output.line(sentences.approval(found.approval))
    else:
        session.output.line(f"client {found.client.name} may train again")
    return ExitCode.DONE


@app.command(rich_help_panel=panels.TRAINING)
@verb
def rounds(session: Session, limit: options.Limit = options.DEFAULT_LIMIT) -> ExitCode:
    """List rounds, newest first."""
    found = listing.first_rounds(session, limit)
    if session.output.json:
        session.output.document({"rounds": documents(found)})
    else:
        session.output.show(tables.rounds(found))
    return ExitCode.DONE


@app.command(rich_help_panel=panels.TRAINING)
@verb
def versions(session: Session, limit: options.Limit = options.DEFAULT_LIMIT) -> ExitCode:
    """List versions of the global model, newest first."""
    found = listing.first_versions(session, limit)
    if session.output.json:
        session.output.document({"versions": documents(found)})
    else:
        session.output.show(tables.versions(found))
    return ExitCode.DONE
