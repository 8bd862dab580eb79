"""The verbs `train` and `stop`."""

from __future__ import annotations

from typing import Annotated

import typer

from fednot.cli import interrupts, options, panels, progress, views
from fednot.cli.documents import document
from fednot.cli.exit_codes import ExitCode
from fednot.cli.run_following import RUN_ENDS, RunUpdate, follow_run
from fednot.cli.session import Session, verb
from fednot.cli.waiting import Patience
from fednot.v1 import operator_pb2

app = typer.Typer()

_POLICY = "How rounds are made (default: the server's)"

Rounds = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many rounds to complete.")]
Fraction = Annotated[
    float | None,
    typer.Option(
        callback=options.ratio,
        help="The share of the clients that takes part in a round.",
        rich_help_panel=_POLICY,
    ),
]
Quorum = Annotated[
    float | None,
    typer.Option(
        callback=options.ratio,
        help="The share of the cohort whose updates make a round count at its deadline.",
        rich_help_panel=_POLICY,
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        callback=options.seconds,
        help="How long a round waits for updates.",
        rich_help_panel=_POLICY,
    ),
]
MinClients = Annotated[
    int | None,
    typer.Option(
        min=1, help="Clients that a round needs before it starts.", rich_help_panel=_POLICY
    ),
]
ClientWait = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        callback=options.seconds,
        help="How long a round waits for that many before the run fails.",
        rich_help_panel=_POLICY,
    ),
]
Assignments = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=NUMBER",
        help="Override a hyper-parameter of the Task; may be given again.",
        rich_help_panel=_POLICY,
    ),
]
Detach = Annotated[
    bool,
    typer.Option("--detach", help="Return when the run has started.", rich_help_panel="Waiting"),
]


@app.command(rich_help_panel=panels.TRAINING)
@verb
def train(
    session: Session,
    rounds: Rounds,
    fraction: Fraction = None,
    quorum: Quorum = None,
    deadline: Deadline = None,
    min_clients: MinClients = None,
    client_wait: ClientWait = None,
    assignments: Assignments = [],  # noqa: B006
    detach: Detach = False,
    wait_timeout: options.WaitTimeout = options.DEFAULT_WAIT,
) -> ExitCode:
    """Start a training run, and wait for its end."""
    request = operator_pb2.StartTrainingRequest(
        rounds=rounds,
        policy=operator_pb2.RoundPolicy(
            fraction=fraction,
            quorum=quorum,
            deadline=options.duration(deadline),
            min_clients=min_clients,
            client_wait=options.duration(client_wait),
        ),
    )
    request.config.update(options.numbers(assignments))
    run = session.call(session.operator.StartTraining, request).run
    if detach:
        return _print(session, run)
    return _wait(session, run, wait_timeout)


@app.command(rich_help_panel=panels.TRAINING)
@verb
def stop(session: Session) -> ExitCode:
    """Stop the active training run; completed rounds stay."""
    request = operator_pb2.StopTrainingRequest()
    return _print(session, session.call(session.operator.StopTraining, request).run)


def _print(session: Session, run: operator_pb2.TrainingRun) -> ExitCode:
    if session.output.json:
        session.output.document({"run": document(run)})
    else:
        text = progress.of_run(RunUpdate(run)).headline
        session.output.line(f"{text}, {run.rounds_done} of {run.rounds} rounds")
    return ExitCode.DONE


def _wait(session: Session, run: operator_pb2.TrainingRun, seconds: float) -> ExitCode:
    code = ExitCode.FAILED
    patience = Patience(seconds, f"run {run.id}")
    try:
        with views.opened(session.output) as view:
            for update in follow_run(session, run, patience, view.tell):
                view.show(progress.of_run(update))
                code = RUN_ENDS.get(update.run.state, ExitCode.FAILED)
    except KeyboardInterrupt:
        with interrupts.last_words():
            session.output.note(f"run {run.id} goes on; `fednot stop` stops it")
        raise
    return code
