"""The phases of a job: one table of allowed moves, one function."""

from __future__ import annotations

from typing import Final

from server.records import JobPhase

MOVES: Final[dict[JobPhase, frozenset[JobPhase]]] = {
    JobPhase.AWAITING: frozenset({JobPhase.QUEUED, JobPhase.CANCELLED}),
    JobPhase.QUEUED: frozenset(
        {JobPhase.NEGATING, JobPhase.CANCELLED, JobPhase.FAILED, JobPhase.MERGED}
    ),
    JobPhase.NEGATING: frozenset({JobPhase.RECOVERING, JobPhase.VERIFYING, JobPhase.FAILED}),
    JobPhase.RECOVERING: frozenset({JobPhase.NEGATING, JobPhase.VERIFYING, JobPhase.FAILED}),
    JobPhase.VERIFYING: frozenset({JobPhase.NEGATING, JobPhase.COMPLETED, JobPhase.FAILED}),
    JobPhase.COMPLETED: frozenset(),
    JobPhase.FAILED: frozenset(),
    JobPhase.CANCELLED: frozenset(),
    JobPhase.MERGED: frozenset(),
}

ENDED: Final = frozenset(phase for phase, moves in MOVES.items() if not moves)
NOT_READY: Final = ENDED | {JobPhase.AWAITING}
CANCELLABLE: Final = frozenset(
    phase for phase, moves in MOVES.items() if JobPhase.CANCELLED in moves
)


class IllegalMoveError(Exception):
    """A move that the table does not allow."""


def moved(phase: JobPhase, to: JobPhase) -> JobPhase:
    """The phase after a move. Raises IllegalMoveError if the table does not allow it."""
    if to not in MOVES[phase]:
        raise IllegalMoveError(f"a job cannot go from {phase} to {to}")
    return to
