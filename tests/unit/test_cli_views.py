"""What views print, and that what other machines say cannot drive the terminal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from fednot.cli import progress
from fednot.cli.live import LiveView
from fednot.cli.output import Format, Output
from fednot.cli.run_following import EndedRound, RunUpdate
from fednot.cli.views import SETTLED_SECONDS, JsonView, PlainView, opened
from fednot.sentences import timeless
from fednot.v1 import deletion_pb2, operator_pb2

RUN = operator_pb2.TrainingRun(id=3, rounds=12, rounds_done=5, state="RUN_STATE_ACTIVE")
MISSING = deletion_pb2.RoundProgress(round=6, cohort=5, updates=3, missing=["c2", "c4"])


def update(waiting_for: str = "", **more: Any) -> progress.Progress:
    return progress.of_run(RunUpdate(RUN, waiting_for=waiting_for, **more))


def ended(number: int, accuracy: float) -> EndedRound:
    found = operator_pb2.Round(
        number=number,
        outcome="ROUND_OUTCOME_COMPLETED",
        cohort=["c1"],
        result_version=7,
        metrics={"loss": 0.25, "accuracy": accuracy},
    )
    return EndedRound(5, found)


def failing_deletion() -> deletion_pb2.WatchDeletionResponse:
    attempt = deletion_pb2.Attempt(
        number=1,
        method="not",
        tensors=["0.weight"],
        warnings=["one feeds another"],
        rounds=[deletion_pb2.RecoveryRound(metrics={"accuracy": 0.1})],
        outcome="ATTEMPT_OUTCOME_ABANDONED",
        explanation="it stayed at chance",
    )
    job = deletion_pb2.Job(
        id="j", phase="JOB_PHASE_FAILED", attempts=[attempt], failure="none left"
    )
    job.target_accuracy = 0.97
    deletion = deletion_pb2.Deletion(request_id="r", job=job)
    return deletion_pb2.WatchDeletionResponse(deletion=deletion)


def test_the_steps_of_an_attempt_are_counted_as_they_are_taken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    view, found = PlainView(Output(Format.TABLE)), failing_deletion()
    view.show(progress.of_deletion(found))
    assert "step" not in capsys.readouterr().out
    for number, text in ((5, "1 step of its method taken"), (6, "2 steps of its method taken")):
        found.deletion.job.attempts[0].steps.append(number)
        view.show(progress.of_deletion(found))
        assert f"attempt 1: {text}\n" in capsys.readouterr().out


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_wait_is_printed_once_it_has_lasted(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    view = PlainView(Output(Format.TABLE), clock)
    for age in range(6):
        clock.now = age * SETTLED_SECONDS / 3
        view.show(update(f"waiting for c7, last seen {age} s ago"))
    view.show(update())
    assert capsys.readouterr().out == "run 3: active\n  waiting for c7, last seen 3 s ago\n"


def test_a_round_that_lasts_names_who_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    view = PlainView(Output(Format.TABLE), clock)
    view.show(update(round=MISSING))
    clock.now = SETTLED_SECONDS
    view.show(update(round=MISSING))
    assert "  round 6: 3 of 5 updates, missing c2, c4\n" in capsys.readouterr().out


def test_a_fact_is_printed_once_and_again_when_it_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    view = PlainView(Output(Format.TABLE))
    for accuracy in (0.5, 0.5, 0.6):
        view.show(update(ended=(ended(9, accuracy),)))
    assert capsys.readouterr().out.splitlines() == [
        "run 3: active",
        "[5 of 12] round 9: completed, 1 of 1 updates, accuracy 0.5000, loss 0.2500",
        "[5 of 12] round 9: completed, 1 of 1 updates, accuracy 0.6000, loss 0.2500",
    ]


def test_a_failed_deletion_tells_its_attempts(capsys: pytest.CaptureFixture[str]) -> None:
    PlainView(Output(Format.TABLE)).show(progress.of_deletion(failing_deletion()))
    assert capsys.readouterr().out.splitlines() == [
        "deletion r of unknown scope: failed: none left",
        "attempt 1, method not: negates 0.weight",
        "attempt 1: warning: one feeds another",
        "attempt 1, recovery round 1: accuracy 0.1000",
        "attempt 1: abandoned: it stayed at chance",
    ]


def test_json_lines_are_only_changes(capsys: pytest.CaptureFixture[str]) -> None:
    view = JsonView(Output(Format.JSON))
    view.show(update("c7, last seen 41 s ago"))
    view.show(update("c7, last seen 42 s ago"))
    view.show(update("c7, last seen 42 s ago", ended=(ended(9, 0.5),)))
    view.show(update("c7, last seen 42 s ago"))
    view.tell("lost")
    captured = capsys.readouterr()
    documents = [json.loads(line) for line in captured.out.splitlines()]
    assert [len(each["ended_rounds"]) for each in documents] == [0, 1]
    assert captured.err == "lost\n"


def test_the_order_of_metrics_is_no_change(capsys: pytest.CaptureFixture[str]) -> None:
    """A map of protobuf may have another one in each process of a server."""
    view = JsonView(Output(Format.JSON))
    for names in (("accuracy", "loss"), ("loss", "accuracy")):
        told = {"run": {"metrics": dict.fromkeys(names, 0.5)}, "ended_rounds": []}
        view.show(replace(update(), document=told))
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("c7, last seen 42 s ago", True),
        ("c7, last seen 2 min ago", True),
        ("c8, last seen 41 s ago", False),
    ],
)
def test_durations_are_no_change(text: str, same: bool) -> None:
    assert (timeless(text) == timeless("c7, last seen 41 s ago")) is same


def rendered(view: LiveView, console: Console) -> str:
    with console.capture() as capture:
        console.print(view.render())
    return capture.get()


def test_the_live_view_shows_rounds_missing_clients_and_accuracies() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=120)
    view = LiveView(console)
    assert "asking" in rendered(view, console)
    view.show(update("waiting for c2", round=MISSING, ended=(ended(9, 0.5),)))
    view.tell("gone; trying again")
    text = rendered(view, console)
    for part in ("5 of 12 rounds", "missing c2, c4", "waiting for c2", "accuracy 0.5000", "gone"):
        assert part in text
    view.show(progress.of_deletion(failing_deletion()))
    assert "target: accuracy 0.9700" in rendered(view, console)


def test_the_live_view_opens_and_closes_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    output = Output(Format.TABLE)
    stream = io.StringIO()
    output.console = Console(file=stream, force_terminal=True, width=100)  # type: ignore[misc]
    with opened(output) as view:
        view.show(update())
    assert isinstance(view, LiveView)
    assert "run 3: active" in stream.getvalue()


def test_no_colour_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert Output(Format.TABLE).console.no_color


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(Format.TABLE)
    output.line("a\x1b[31mb")
    output.note("a\x1b]0;title\x07b")
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err


def test_a_completed_deletion_says_what_is_released_if_anything_is() -> None:
    """While another deletion is open, nothing is released at the end of a job."""
    job = deletion_pb2.Job(id="j", phase="JOB_PHASE_COMPLETED", released_version=7)
    deletion = deletion_pb2.Deletion(request_id="r", job=job)
    headline = progress.of_deletion(deletion_pb2.WatchDeletionResponse(deletion=deletion)).headline
    assert headline.endswith("completed, version 7 is released")
    deletion.job.released_version = 0
    headline = progress.of_deletion(deletion_pb2.WatchDeletionResponse(deletion=deletion)).headline
    assert headline.endswith("nothing is released while other deletions are open")
