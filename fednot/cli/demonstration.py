"""The verb `demo`: a federation that forgets, on this machine."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import local
from fednot.cli.output import Output
from fednot.cli.session import local_verb

app = typer.Typer()


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
Folder = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Where results go.", file_okay=False)
]


@app.command()
@local_verb
def demo(
    output: Output,
    seed: Seed = 0,
    rounds: Rounds = 12,
    clients: Clients = 5,
    assurance: AssuranceOption = Assurance.BEHAVIOUR,
    out: Folder = Path("demo-out"),
) -> ExitCode:
    """Train, forget a client and look, all on this machine."""
    if not output.json:
        return _run(seed, rounds, clients, assurance, out)
    with redirect_stdout(sys.stderr):
        code = _run(seed, rounds, clients, assurance, out)
    output.document(
        {
            "seed": seed,
            "rounds": rounds,
            "clients": clients,
            "assurance": assurance.value,
            "out": str(out),
            "exit_code": int(code),
        }
    )
    return code


def _run(seed: int, rounds: int, clients: int, assurance: Assurance, out: Path) -> ExitCode:
    try:
        from fednot.demo.run import run_demo  # type: ignore[import-not-found, unused-ignore]

        code = run_demo(
            seed=seed, rounds=rounds, clients=clients, assurance=assurance.value, out=out
        )
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name.startswith(("fednot", "server", "client")):
            raise
        raise local(
            f"the demo needs the package {name}, which is not installed",
            "pip install '.[demo]'",
        ) from error
    return ExitCode.DONE if code == 0 else ExitCode.FAILED
