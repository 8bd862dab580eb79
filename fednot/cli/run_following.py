"""Follows a training run to its end, across lost connections and restarted servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from fednot.cli import listing
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError
from fednot.cli.session import Session
from fednot.cli.waiting import Losses, Patience
from fednot.v1 import deletion_pb2, federation_pb2, operator_pb2

POLL_SECONDS: Final = 0.3
RUN_ENDS: Final = {
    operator_pb2.RUN_STATE_COMPLETED: ExitCode.DONE,
    operator_pb2.RUN_STATE_STOPPED: ExitCode.FAILED,
    operator_pb2.RUN_STATE_FAILED: ExitCode.FAILED,
}
_OPEN: Final = (operator_pb2.ROUND_OUTCOME_UNSPECIFIED, operator_pb2.ROUND_OUTCOME_RUNNING)


@dataclass(frozen=True)
class EndedRound:
    """A round of the run that has ended; `index` counts those that made a version."""

    index: int
    round: operator_pb2.Round


@dataclass(frozen=True)
class RunUpdate:
    """Where a run stands; `ended` holds the rounds that are new or newly evaluated."""

    run: operator_pb2.TrainingRun
    round: deletion_pb2.RoundProgress | None = None
    waiting_for: str = ""
    ended: tuple[EndedRound, ...] = ()


def follow_run(
    session: Session,
    run: operator_pb2.TrainingRun,
    patience: Patience,
    tell: Callable[[str], None],
) -> Iterator[RunUpdate]:
    """Polls until the run has ended. Raises CliError when patience is out or the run is gone."""
    history = _History(session, run)
    losses = Losses(tell)
    while True:
        try:
            update = _update(session, run, history)
        except CliError as error:
            pause = losses.lost(error)
            patience.waiting_for = error.message
            patience.pause(pause)
            continue
        losses.answered()
        patience.waiting_for = update.waiting_for
        yield update
        if update.run.state in RUN_ENDS:
            return
        patience.pause(POLL_SECONDS)


def _update(session: Session, run: operator_pb2.TrainingRun, history: _History) -> RunUpdate:
    status = session.call(session.operator.GetStatus, operator_pb2.GetStatusRequest())
    if not status.HasField("run") or status.run.id != run.id:
        raise CliError(
            f"run {run.id} is no longer the latest run of the server; its end was not seen",
            ExitCode.FAILED,
            reason="RUN_REPLACED",
            remedy="See `fednot status` and `fednot rounds`.",
        )
    return RunUpdate(
        run=status.run,
        round=status.round if status.HasField("round") else None,
        waiting_for=status.waiting_for,
        ended=tuple(history.news(status)),
    )


class _History:
    """The ended rounds of a run, read again only when the status tells that there may be more."""

    def __init__(self, session: Session, run: operator_pb2.TrainingRun) -> None:
        self._session = session
        self._run = run
        self._last: EndedRound | None = None
        self._mark: tuple[int, ...] = ()

    def news(self, status: operator_pb2.GetStatusResponse) -> list[EndedRound]:
        mark = (
            status.run.rounds_done,
            status.run.state,
            status.round.round,
            status.current.number,
            len(status.current.metrics),
        )
        if mark == self._mark:
            return []
        found = [self._numbered(each) for each in reversed(list(self._recent()))]
        self._mark = mark
        return found

    def _recent(self) -> Iterator[operator_pb2.Round]:
        for each in listing.rounds(self._session):
            if self._is_old(each):
                return
            if each.phase == federation_pb2.ROUND_PHASE_TRAINING and each.outcome not in _OPEN:
                yield each

    def _is_old(self, found: operator_pb2.Round) -> bool:
        last = self._last.round if self._last else None
        if last is not None and (found.number < last.number or found == last):
            return True
        return found.started_at.ToNanoseconds() < self._run.started_at.ToNanoseconds()

    def _numbered(self, found: operator_pb2.Round) -> EndedRound:
        index = self._last.index if self._last else 0
        again = self._last is not None and self._last.round.number == found.number
        self._last = EndedRound(index + (bool(found.result_version) and not again), found)
        return self._last
