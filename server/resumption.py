"""What becomes of a round that was running when the server stopped.

It goes on under its number, with its cohort, what is left of its time, and the same work ids, so
that a client that trained through the restart can still send its update. The sum begins anew: an
update that was in it already is asked for again, and none can count twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, func, select

from server.records import Round, RoundOutcome, RoundPhase
from server.state import round_rows
from server.state.fencing import FencedError
from server.state.schema import attempts

SHORTEST_SECONDS: Final = 30.0
"""What a round has left at least, if its policy gave it as much: clients come back first."""


def take_over(
    connection: Connection, current_version: int, now: float
) -> tuple[Sequence[Round], Sequence[int]]:
    """Keeps the running rounds that still stand and aborts the others; gives both.

    A round stands if its base is the current version, its clients may train, and what it was
    planned for goes on: its run, or the same attempt of its job.
    """
    kept, aborted = [], []
    for found in round_rows.running_rounds(connection):
        if _stands(connection, found, current_version):
            kept.append(found)
        else:
            round_rows.close_round(connection, found.number, RoundOutcome.ABORTED, now)
            aborted.append(found.number)
    return kept, aborted


def seconds_left(begun: Round, deadline: float, now: float) -> float:
    """How long a round may still take that began some time ago and was given `deadline` seconds.

    The clock may have been stepped since: it is never more than the whole deadline, and enough for
    clients to come back in.
    """
    left = begun.started_at + deadline - now
    return min(max(left, SHORTEST_SECONDS), deadline)


def _stands(connection: Connection, found: Round, current_version: int) -> bool:
    if found.base_version != current_version:
        return False
    if found.phase is RoundPhase.RECOVERY:
        latest = select(func.max(attempts.c.number)).where(attempts.c.job_id == found.job_id)
        if connection.execute(latest).scalar() != found.attempt:
            return False
    try:
        round_rows.check_wanted(connection, found)
    except FencedError:
        return False
    return True
