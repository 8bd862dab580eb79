"""The verb `unlearn client`: asks for a deletion so that a lost reply costs nothing."""

from __future__ import annotations

import time
import uuid
from enum import StrEnum
from typing import Annotated, Final

import typer

from fednot.cli import options
from fednot.cli.deletions import report, wait
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError
from fednot.cli.session import Session, verb
from fednot.v1 import deletion_pb2

app = typer.Typer(no_args_is_help=True, help="Ask that a contribution be forgotten.")

RETRY_PAUSES: Final = (0.5, 1.0, 2.0, 4.0)
_RECOVERY: Final = "When recovery stops (default: the server's rule)"


class Method(StrEnum):
    """The methods that a request may name."""

    NOT = "not"
    FINE_TUNE = "fine-tune"
    RETRAIN = "retrain"


Name = Annotated[str, typer.Argument(metavar="NAME", help="The client to forget.")]
Layers = Annotated[
    str,
    typer.Option(
        metavar="SELECTOR",
        help="Which layers to negate: first, layers=NAME,..., index=N,... or all-but-last.",
        show_default="first",
    ),
]
MethodOption = Annotated[
    Method | None, typer.Option(help="How to forget.", show_default="not", case_sensitive=False)
]
RequestId = Annotated[
    str,
    typer.Option(
        metavar="ID",
        help="Names the request; the same id gives the same deletion for ever.",
        show_default="a new UUID",
    ),
]
Unsafe = Annotated[
    bool,
    typer.Option(
        "--allow-unsafe-layers",
        help="Take the layers even if one feeds another or is the output layer.",
    ),
]
Priority = Annotated[
    int,
    typer.Option(
        min=-1000, max=1000, help="Of those that wait, the highest goes first; by officers only."
    ),
]
NotAfter = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        callback=options.moment,
        help="By when it is to be done: 2027-01-31, 2027-01-31T12:00:00Z, or 30d from now. "
        "The earlier goes first; a late one is told and goes on.",
        show_default="none",
    ),
]
Retain = Annotated[
    bool,
    typer.Option(
        "--retain",
        help="A legal hold: keep the older versions, released to nobody, until `fednot lift-hold`. "
        "By officers only.",
    ),
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for the job's end.", rich_help_panel="Waiting")
]
MinRounds = Annotated[
    int | None,
    typer.Option(min=1, help="Recovery rounds at the least.", rich_help_panel=_RECOVERY),
]
MaxRounds = Annotated[
    int | None,
    typer.Option(
        min=1, help="Recovery rounds at the most, for one attempt.", rich_help_panel=_RECOVERY
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        callback=options.share_below_one,
        help="How far below the accuracy before the deletion the target stands.",
        rich_help_panel=_RECOVERY,
    ),
]
PlateauRounds = Annotated[
    int | None,
    typer.Option(
        min=1, help="Rounds without improvement that make a plateau.", rich_help_panel=_RECOVERY
    ),
]
ChanceRounds = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Rounds that an attempt may stay at chance before it is abandoned.",
        rich_help_panel=_RECOVERY,
    ),
]
FullBudget = Annotated[
    bool,
    typer.Option(
        "--full-budget",
        help="Run all of --max-rounds, even if the rule would stop earlier.",
        rich_help_panel=_RECOVERY,
    ),
]
MinClients = Annotated[
    int | None,
    typer.Option(
        min=1, help="Clients that a recovery round needs at the least.", rich_help_panel=_RECOVERY
    ),
]
RoundDeadline = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        callback=options.seconds,
        help="How long a recovery round waits for updates.",
        rich_help_panel=_RECOVERY,
    ),
]


@app.callback()
def scopes() -> None:
    """Ask that a contribution be forgotten."""


@app.command()
@verb
def client(
    session: Session,
    name: Name,
    layers: Layers = "",
    method: MethodOption = None,
    request_id: RequestId = "",
    allow_unsafe_layers: Unsafe = False,
    priority: Priority = 0,
    not_after: NotAfter = "",
    retain: Retain = False,
    min_rounds: MinRounds = None,
    max_rounds: MaxRounds = None,
    tolerance: Tolerance = None,
    plateau_rounds: PlateauRounds = None,
    chance_rounds: ChanceRounds = None,
    full_budget: FullBudget = False,
    min_clients: MinClients = None,
    round_deadline: RoundDeadline = None,
    wait_for_end: Wait = False,
    wait_timeout: options.WaitTimeout = options.DEFAULT_WAIT,
) -> ExitCode:
    """Forget everything that a client contributed. It is barred before this returns."""
    policy = deletion_pb2.RecoveryPolicy(
        min_rounds=min_rounds,
        max_rounds=max_rounds,
        tolerance=tolerance,
        plateau_rounds=plateau_rounds,
        full_budget=full_budget or None,
        chance_rounds=chance_rounds,
        min_clients=min_clients,
        round_deadline=options.duration(round_deadline),
    )
    request = deletion_pb2.UnlearnRequest(
        request_id=request_id or str(uuid.uuid4()),
        scope=deletion_pb2.Scope(client=name),
        method=method or "",
        layers=layers,
        allow_unsafe_layers=allow_unsafe_layers,
        recovery=policy,
        priority=priority,
        not_after=options.timestamp(not_after),
        retain=retain,
    )
    deletion = _ask(session, request)
    if not wait_for_end:
        return report(session, deletion)
    watched = deletion_pb2.WatchDeletionRequest(request_id=deletion.request_id)
    return wait(session, watched, wait_timeout)


def _ask(session: Session, request: deletion_pb2.UnlearnRequest) -> deletion_pb2.Deletion:
    session.output.note(f"request id: {request.request_id}")
    for pause in (*RETRY_PAUSES, None):
        try:
            return session.call(session.deletions.Unlearn, request).deletion
        except CliError as error:
            if error.code is not ExitCode.UNREACHABLE:
                raise
            if pause is None or error.overdue:
                error.remedy += (
                    f" The request may have been taken: repeat it with --request-id "
                    f"{request.request_id}, which cannot delete twice."
                )
                raise
            session.output.note(f"{error.message}; asking again with the same request id")
            time.sleep(pause)
    raise AssertionError
