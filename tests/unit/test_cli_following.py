"""Following a run, lists page by page, and bounded waiting, without a network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fednot.cli import listing
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError, local
from fednot.cli.run_following import RunUpdate, follow_run
from fednot.cli.session import Session
from fednot.cli.waiting import LONGEST_PAUSE, MOST_BROKEN, Losses, Patience
from fednot.v1 import federation_pb2, model_pb2, operator_pb2

RUN = operator_pb2.TrainingRun(id=3, rounds=2, state=operator_pb2.RUN_STATE_ACTIVE)
RUN.started_at.FromSeconds(100)


class CannedSession:
    """Answers from a list for each call; an exception is raised, the last answer stays."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.requests: list[Any] = []
        self.operator = SimpleNamespace(**{name: name for name in answers})

    def call(self, method: str, request: Any) -> Any:
        self.requests.append(type(request).FromString(request.SerializeToString()))
        rows = self.answers[method]
        answer = rows.pop(0) if len(rows) > 1 else rows[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def session(**answers: list[Any]) -> Session:
    return cast("Session", CannedSession(**answers))


def status(done: int, **more: Any) -> operator_pb2.GetStatusResponse:
    state = operator_pb2.RUN_STATE_COMPLETED if done == 2 else operator_pb2.RUN_STATE_ACTIVE
    run = operator_pb2.TrainingRun(id=3, rounds=2, rounds_done=done, state=state)
    return operator_pb2.GetStatusResponse(run=run, **more)


def ended(number: int, version: int, started: int = 200, **more: Any) -> operator_pb2.Round:
    found = operator_pb2.Round(
        number=number,
        phase=federation_pb2.ROUND_PHASE_TRAINING,
        outcome=operator_pb2.ROUND_OUTCOME_COMPLETED,
        result_version=version,
        **more,
    )
    found.started_at.FromSeconds(started)
    return found


def rounds(*found: operator_pb2.Round, token: str = "") -> operator_pb2.ListRoundsResponse:
    return operator_pb2.ListRoundsResponse(rounds=found, next_page_token=token)


def follow(canned: Session, seconds: float = 20.0) -> list[RunUpdate]:
    return list(follow_run(canned, RUN, Patience(seconds, "run 3"), lambda text: None))


def lost() -> CliError:
    return CliError("gone", ExitCode.UNREACHABLE, lost=True)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednot.cli.waiting.time.sleep", lambda seconds: None)


def test_rounds_before_the_run_and_open_rounds_are_left_out() -> None:
    running = ended(9, 0)
    running.outcome = operator_pb2.ROUND_OUTCOME_RUNNING
    canned = session(
        GetStatus=[status(1), status(2)],
        ListRounds=[rounds(running, ended(8, 5), ended(7, 4, started=50)), rounds(ended(8, 5))],
    )
    assert [[each.round.number for each in update.ended] for update in follow(canned)] == [[8], []]


def test_a_failed_round_does_not_count_and_a_later_evaluation_is_told() -> None:
    evaluated = ended(9, 5, metrics={"accuracy": 0.5})
    current = model_pb2.Version(number=5, metrics={"accuracy": 0.5})
    canned = session(
        GetStatus=[status(1), status(1, current=current), status(2)],
        ListRounds=[
            rounds(ended(9, 5), ended(8, 0)),
            rounds(evaluated, ended(8, 0)),
            rounds(ended(10, 6), evaluated, ended(8, 0)),
        ],
    )
    found = [[(each.index, each.round.number) for each in u.ended] for u in follow(canned)]
    assert found == [[(0, 8), (1, 9)], [(1, 9)], [(2, 10)]]


def test_the_list_of_rounds_is_read_only_after_a_change() -> None:
    canned = session(GetStatus=[status(1)] * 5 + [status(2)], ListRounds=[rounds()])
    follow(canned)
    requests = cast("CannedSession", canned).requests
    assert sum(isinstance(each, operator_pb2.ListRoundsRequest) for each in requests) == 2


def test_a_replaced_run_is_not_taken_for_the_own_one() -> None:
    other = operator_pb2.GetStatusResponse(run=operator_pb2.TrainingRun(id=4))
    with pytest.raises(CliError, match="no longer the latest run") as caught:
        follow(session(GetStatus=[other]))
    assert (caught.value.code, caught.value.reason) == (ExitCode.FAILED, "RUN_REPLACED")


def test_losing_the_list_of_rounds_loses_no_round() -> None:
    canned = session(GetStatus=[status(2)], ListRounds=[lost(), rounds(ended(8, 5))])
    [update] = follow(canned)
    assert [each.round.number for each in update.ended] == [8]


def test_a_server_that_stays_away_is_waited_for_until_patience_is_out() -> None:
    with pytest.raises(CliError, match=r"has not ended after 0\.05 s: gone") as caught:
        follow(session(GetStatus=[lost()]), seconds=0.05)
    assert caught.value.code is ExitCode.TIMED_OUT


def test_a_loss_is_told_once_and_pauses_grow_to_a_limit() -> None:
    told: list[str] = []
    losses = Losses(told.append)
    pauses = [losses.lost(lost()) for _ in range(20)]
    losses.answered()
    losses.answered()
    assert told == ["gone; trying again", "the server answers again"]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


def test_a_refusal_is_no_loss() -> None:
    with pytest.raises(CliError, match="no"):
        Losses(lambda text: None).lost(local("no"))


def test_a_server_that_breaks_every_call_is_given_up() -> None:
    losses = Losses(lambda text: None)
    broken = CliError("broken", ExitCode.REFUSED, lost=True)
    for _ in range(MOST_BROKEN):
        losses.lost(broken)
    with pytest.raises(CliError, match="broken"):
        losses.lost(broken)


def test_lists_read_the_pages_that_the_limit_needs() -> None:
    canned = session(
        ListRounds=[
            rounds(ended(3, 1), token="2"),
            rounds(ended(2, 1), ended(1, 1), token="0"),
        ]
    )
    assert [each.number for each in listing.first_rounds(canned, 2)] == [3, 2]
    requests = cast("CannedSession", canned).requests
    assert [(each.page_size, each.page_token) for each in requests] == [(2, ""), (2, "2")]
