"""The verb `demo`: a federation that forgets, on this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from fednot.cli import panels
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import local, usage
from fednot.cli.output import Output
from fednot.cli.session import local_verb

app = typer.Typer()

FEWEST_CLIENTS: Final = 3
"""A masked round takes so many; fednot.secure_aggregation, which needs torch, is not for a CLI."""


class Assurance(StrEnum):
    """How far a deletion is verified."""

    BEHAVIOUR = "behaviour"
    DEEP = "deep"


Seed = Annotated[int, typer.Option(min=0, help="Seeds data, weights and shuffling.")]
Rounds = Annotated[int, typer.Option(min=1, help="Training rounds.")]
Clients = Annotated[int, typer.Option(min=2, help="Clients; one of them is to be forgotten.")]
AssuranceOption = Annotated[
    Assurance, typer.Option(help="How far the deletion by NoT is to be verified.")
]
Secure = Annotated[
    bool,
    typer.Option(
        "--secure-aggregation", help="Clients mask their updates; the server sees sums alone."
    ),
]
Folder = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Where results go.", file_okay=False)
]


@app.command(rich_help_panel=panels.FIRST_STEPS)
@local_verb
def demo(
    output: Output,
    seed: Seed = 0,
    rounds: Rounds = 12,
    clients: Clients = 5,
    assurance: AssuranceOption = Assurance.BEHAVIOUR,
    secure_aggregation: Secure = False,
    out: Folder = Path("demo-out"),
) -> ExitCode:
    """Train, forget a client and look, all on this machine."""
    if secure_aggregation and clients <= FEWEST_CLIENTS:
        raise usage(
            f"{clients} clients are too few to mask updates: after the deletion "
            f"{FEWEST_CLIENTS} must be left",
            f"Give --clients {FEWEST_CLIENTS + 1} or more.",
        )
    options: dict[str, Any] = {
        "seed": seed,
        "rounds": rounds,
        "clients": clients,
        "assurance": assurance.value,
        "secure_aggregation": secure_aggregation,
    }
    if not output.json:
        return _run(options, out)
    with redirect_stdout(sys.stderr):
        code = _run(options, out)
    output.document({**options, "out": str(out), "exit_code": int(code)})
    return code


def _run(options: Mapping[str, Any], out: Path) -> ExitCode:
    try:
        from fednot.demo.run import run_demo  # type: ignore[import-not-found, unused-ignore]

        code = run_demo(**options, out=out)
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name.startswith(("fednot", "server", "client")):
            raise
        raise local(
            f"the demo needs the package {name}, which is not installed",
            "pip install '.[demo]'",
        ) from error
    return ExitCode.DONE if code == 0 else ExitCode.FAILED
