"""The verbs of second approval: `approvals`, `approve` and `refuse`."""

from __future__ import annotations

from typing import Annotated

import typer

from fednot import sentences
from fednot.cli import listing, options, panels, tables
from fednot.cli.documents import document, documents
from fednot.cli.exit_codes import ExitCode
from fednot.cli.session import Session, verb
from fednot.v1 import approval_pb2

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="APPROVAL", help="The approval's id.")]


@app.command(rich_help_panel=panels.DELETIONS)
@verb
def approvals(session: Session, limit: options.Limit = options.DEFAULT_LIMIT) -> ExitCode:
    """List what needs or needed a second approval, newest first."""
    found = listing.first_approvals(session, limit)
    if session.output.json:
        session.output.document({"approvals": documents(found)})
    else:
        session.output.show(tables.approvals(found))
    return ExitCode.DONE


@app.command(rich_help_panel=panels.DELETIONS)
@verb
def approve(session: Session, name: Name) -> ExitCode:
    """Approve what another identity asked for, so that it goes on."""
    request = approval_pb2.ApproveRequest(id=name)
    return report(session, session.call(session.approvals.Approve, request).approval)


@app.command(rich_help_panel=panels.DELETIONS)
@verb
def refuse(session: Session, name: Name) -> ExitCode:
    """Refuse what was asked for: a deletion is cancelled, a readmission does not take place."""
    request = approval_pb2.RefuseRequest(id=name)
    return report(session, session.call(session.approvals.Refuse, request).approval)


def report(session: Session, approval: approval_pb2.Approval) -> ExitCode:
    """Prints an approval."""
    if session.output.json:
        session.output.document({"approval": document(approval)})
    else:
        session.output.line(sentences.approval(approval))
    return ExitCode.DONE
