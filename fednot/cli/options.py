"""The options that several verbs share."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Final

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from fednot import moments
from fednot.channel import DEFAULT_ADDRESS
from fednot.cli.output import Format

LONGEST_SECONDS: Final = 365 * 24 * 3600.0
LONGEST_TOKEN_SECONDS: Final = 30 * 24 * 3600.0
"""The server refuses to make tokens that are good for longer."""
DEFAULT_TIMEOUT: Final = 30.0
DEFAULT_WAIT: Final = 3600.0
DEFAULT_LIMIT: Final = 20
_CONNECTION: Final = "Connection and output"
_WAITING: Final = "Waiting"


def seconds(value: float | None) -> float | None:
    """Checks a duration. Raises BadParameter unless it is above 0 and at most a year."""
    if value is not None and not 0 < value <= LONGEST_SECONDS:
        raise typer.BadParameter("give seconds, above 0 and at most a year")
    return value


def token_seconds(value: float | None) -> float | None:
    """Checks how long a token is to be good. Raises BadParameter unless the server allows it."""
    if value is not None and not 0 < value <= LONGEST_TOKEN_SECONDS:
        raise typer.BadParameter("give seconds, above 0 and at most 30 days (2592000)")
    return value


def share_below_one(value: float | None) -> float | None:
    """Checks a tolerance. Raises BadParameter unless it is from 0 to below 1."""
    if value is not None and not 0 <= value < 1:
        raise typer.BadParameter("give a share from 0 to below 1")
    return value


def ratio(value: float | None) -> float | None:
    """Checks a share. Raises BadParameter unless it is from 0 to 1."""
    if value is not None and not 0 <= value <= 1:
        raise typer.BadParameter("give a share from 0 to 1")
    return value


def numbers(assignments: list[str]) -> dict[str, float]:
    """Reads KEY=NUMBER texts. Raises BadParameter for one that is not."""
    found: dict[str, float] = {}
    for text in assignments:
        key, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not key or not math.isfinite(number):
            raise typer.BadParameter(f"--set {text!r} is not KEY=NUMBER")
        if key in found:
            raise typer.BadParameter(f"--set gives {key} twice")
        found[key] = number
    return found


def moment(text: str) -> str:
    """Checks a moment. Raises BadParameter unless `timestamp` can read it."""
    timestamp(text)
    return text


def timestamp(text: str) -> Timestamp | None:
    """A moment as a message, as `moments.timestamp` reads it. None for "". Raises BadParameter."""
    if not text:
        return None
    try:
        return moments.timestamp(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def duration(seconds: float | None) -> Duration | None:
    """Seconds as a message."""
    if seconds is None:
        return None
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def writable(path: Path, *, force: bool, otherwise: str = "--force overwrites it") -> Path:
    """Checks where a file is to be written. Raises BadParameter if that cannot or must not be.

    `otherwise` is what to do about a file that is there already.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise typer.BadParameter(f"{path} is no place for a file")
    if path.exists() and not force:
        raise typer.BadParameter(f"{path} exists; {otherwise}")
    if not os.access(path.parent, os.W_OK):
        raise typer.BadParameter(f"{path.parent} is not writable")
    return path


Server = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        envvar="FEDNOT_SERVER",
        help="Where the server listens.",
        rich_help_panel=_CONNECTION,
    ),
]
Identity = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        envvar="FEDNOT_IDENTITY",
        help="Who you are: the folder of your certificate, its key and the trusted authority.",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        envvar="FEDNOT_INSECURE",
        help="Talk in plaintext and without an identity, to a server on this machine only.",
        rich_help_panel=_CONNECTION,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        callback=seconds,
        help="How long one call may take.",
        rich_help_panel=_CONNECTION,
    ),
]
OutputFormat = Annotated[
    Format,
    typer.Option(
        "--format",
        case_sensitive=False,
        help="Tables for people, or stable JSON for programs.",
        rich_help_panel=_CONNECTION,
    ),
]
WaitTimeout = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        callback=seconds,
        help="How long to wait at the most.",
        rich_help_panel=_WAITING,
    ),
]
Limit = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many to list, newest first.")]
Target = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.", dir_okay=False)
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")]

SERVER_DEFAULT: Final = DEFAULT_ADDRESS
