"""The verbs that follow deletions: `jobs`, `watch`, `cancel` and `lift-hold`."""

from __future__ import annotations

from typing import Annotated

import typer

from fednot.cli import interrupts, listing, options, panels, progress, tables, views
from fednot.cli.deletion_following import JOB_ENDS, find_deletion, follow_deletion
from fednot.cli.documents import document, documents
from fednot.cli.exit_codes import ExitCode
from fednot.cli.session import Session, verb
from fednot.cli.waiting import Patience
from fednot.v1 import deletion_pb2

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="JOB_OR_REQUEST", help="A request id or a job id.")]


@app.command(rich_help_panel=panels.DELETIONS)
@verb
def jobs(session: Session, limit: options.Limit = options.DEFAULT_LIMIT) -> ExitCode:
    """List deletions with their jobs, newest first."""
    found = listing.first_deletions(session, limit)
    if session.output.json:
        session.output.document({"deletions": documents(found)})
    else:
        session.output.show(tables.deletions(found))
    return ExitCode.DONE


@app.command(rich_help_panel=panels.DELETIONS)
@verb
def watch(
    session: Session, name: Name, wait_timeout: options.WaitTimeout = options.DEFAULT_WAIT
) -> ExitCode:
    """Follow a deletion to the end of its job."""
    return wait(session, find_deletion(session, name), wait_timeout)


@app.command(rich_help_panel=panels.DELETIONS)
@verb
def cancel(session: Session, name: Name) -> ExitCode:
    """Cancel a deletion whose job has not begun to change the model, and lift the fence."""
    request = deletion_pb2.CancelDeletionRequest(request_id=name)
    report(session, session.call(session.deletions.CancelDeletion, request).deletion)
    return ExitCode.DONE


@app.command("lift-hold", rich_help_panel=panels.DELETIONS)
@verb
def lift_hold(session: Session, name: Name) -> ExitCode:
    """Lift the legal hold of a deletion: what its job kept is destroyed."""
    request = deletion_pb2.LiftHoldRequest(request_id=name)
    report(session, session.call(session.deletions.LiftHold, request).deletion)
    return ExitCode.DONE


def report(session: Session, deletion: deletion_pb2.Deletion) -> ExitCode:
    """Prints a deletion; the code tells how its job ended, if it has."""
    if session.output.json:
        session.output.document({"deletion": document(deletion)})
    else:
        response = deletion_pb2.WatchDeletionResponse(deletion=deletion)
        session.output.line(progress.of_deletion(response).headline)
        if deletion.job.phase == deletion_pb2.JOB_PHASE_AWAITING:
            session.output.line(deletion.job.waiting_for)
        follow = f"; `fednot watch {deletion.request_id}` follows it"
        ended = deletion.job.phase in JOB_ENDS
        session.output.line(f"job {deletion.job.id}{'' if ended else follow}")
    return JOB_ENDS.get(deletion.job.phase, ExitCode.DONE)


def wait(session: Session, request: deletion_pb2.WatchDeletionRequest, seconds: float) -> ExitCode:
    """Shows a deletion until its job has ended. Raises CliError when the time is up."""
    code = ExitCode.FAILED
    name = request.request_id or request.job_id
    patience = Patience(seconds, f"deletion {name}")
    try:
        with views.opened(session.output) as view:
            for response in follow_deletion(session, request, patience, view.tell):
                view.show(progress.of_deletion(response))
                code = JOB_ENDS.get(response.deletion.job.phase, ExitCode.FAILED)
    except KeyboardInterrupt:
        with interrupts.last_words():
            session.output.note(f"deletion {name} goes on; `fednot watch {name}` follows it")
        raise
    return code
