"""Follows a deletion to the end of its job, across cut streams and restarted servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError
from fednot.cli.session import Session
from fednot.cli.waiting import FIRST_PAUSE, Losses, Patience
from fednot.errors import Reason
from fednot.v1 import deletion_pb2

WATCH_SECONDS: Final = 10.0
JOB_ENDS: Final = {
    deletion_pb2.JOB_PHASE_COMPLETED: ExitCode.DONE,
    deletion_pb2.JOB_PHASE_FAILED: ExitCode.FAILED,
    deletion_pb2.JOB_PHASE_CANCELLED: ExitCode.FAILED,
}


def find_deletion(session: Session, name: str) -> deletion_pb2.WatchDeletionRequest:
    """Tells whether a name is that of a request or of a job. Raises CliError if of neither."""
    by_request = deletion_pb2.GetDeletionRequest(request_id=name)
    try:
        session.call(session.deletions.GetDeletion, by_request)
    except CliError as error:
        if error.reason != Reason.UNKNOWN_DELETION:
            raise
    else:
        return deletion_pb2.WatchDeletionRequest(request_id=name)
    session.call(session.deletions.GetDeletion, deletion_pb2.GetDeletionRequest(job_id=name))
    return deletion_pb2.WatchDeletionRequest(job_id=name)


def follow_deletion(
    session: Session,
    request: deletion_pb2.WatchDeletionRequest,
    patience: Patience,
    tell: Callable[[str], None],
) -> Iterator[deletion_pb2.WatchDeletionResponse]:
    """Watches until the job has ended, by streams of WATCH_SECONDS one after the other.

    A stream opens with the present state, so that a wait that does not change is seen as such, and
    a server that no longer answers is noticed. Raises CliError when patience is out.
    """
    losses = Losses(tell)
    while True:
        answered = False
        try:
            for response in _watch(session, request, min(WATCH_SECONDS, patience.remaining())):
                answered = True
                losses.answered()
                patience.waiting_for = response.deletion.job.waiting_for
                yield response
                if response.deletion.job.phase in JOB_ENDS:
                    return
        except CliError as error:
            if not (answered and error.overdue):
                pause = losses.lost(error)
                patience.waiting_for = error.message
                patience.pause(pause)
            continue
        patience.pause(FIRST_PAUSE)


def _watch(
    session: Session, request: deletion_pb2.WatchDeletionRequest, seconds: float
) -> Iterator[deletion_pb2.WatchDeletionResponse]:
    return session.stream(session.deletions.WatchDeletion, request, seconds)
