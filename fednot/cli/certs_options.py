"""The options that several verbs of `fednot certs` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from fednot.identity.subject import Role

DEFAULT_AUTHORITY: Final = Path(".fednot-authority")
AUTHORITY_VARIABLE: Final = "FEDNOT_AUTHORITY"
MOST_DAYS: Final = 36500

AuthorityPlace = Annotated[
    Path,
    typer.Option(
        "--authority",
        metavar="DIR",
        envvar=AUTHORITY_VARIABLE,
        help="The directory of the authority.",
    ),
]
AuthorityDays = Annotated[
    int, typer.Option("--days", min=1, max=MOST_DAYS, help="How long the authority is good.")
]
RoleName = Annotated[Role, typer.Argument(metavar="ROLE", help=f"One of {', '.join(Role)}.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose certificate.")]
