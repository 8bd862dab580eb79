"""The options of every deletion, whatever it forgets."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from fednot.cli import options

_RECOVERY: Final = "When recovery stops (default: the server's rule)"


class Assurance(StrEnum):
    """How far a deletion is verified."""

    BEHAVIOUR = "behaviour"
    DEEP = "deep"


Also = Annotated[
    list[str],
    typer.Option(
        metavar="SCOPE",
        help="Forget this in the same negation, too: client:NAME, class:LABEL or "
        "samples:CLIENT:KEY. May be given more than once.",
        show_default="nothing else",
    ),
]
AssuranceOption = Annotated[
    Assurance | None,
    typer.Option(
        help="How far it is to be verified: behaviour looks at the model as it stands; deep makes "
        "attempts until forgetting withstands the undo attack.",
        show_default="behaviour",
        case_sensitive=False,
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        metavar="SELECTOR",
        help="Which layers to negate: first, layers=NAME,..., index=N,..., all-but-last, last or "
        "all (the last two with --allow-unsafe-layers).",
        show_default="first",
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        metavar="NAME[:NUMBER]",
        help="How to forget: not, retrain, or another method of the server (docs/methods.md).",
        show_default="not",
    ),
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
