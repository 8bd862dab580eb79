"""Scripts by which shells complete the daemons' verbs, flags and values: shtab, of their settings.

The script holds all it needs, so that a key press starts no Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import shtab
from pydantic import Field
from pydantic.fields import FieldInfo

from fednot import setting_flags
from fednot.setting_flags import POSITIONAL
from fednot.settings import Settings, load_or_exit

COMPLETION: Final = "completion"
SHELLS: Final = ("bash", "zsh", "fish")

Verbs = Mapping[str, type[Settings]]
"""The settings of each verb of a program; those of "" are of the daemon itself."""


class CompletionSettings(Settings):
    """Prints what makes a shell complete this program."""

    shell: Literal["bash", "zsh", "fish"] = Field(
        description="bash, zsh or fish", json_schema_extra=POSITIONAL
    )


def run(program: str, prefix: str, verbs: Verbs, arguments: Sequence[str]) -> int:
    """Runs `PROGRAM completion SHELL`, and exits with 2 for a shell that is not known."""
    settings = load_or_exit(
        CompletionSettings,
        program=f"{program} {COMPLETION}",
        prefix=prefix,
        arguments=arguments,
        others=verbs[""],
    )
    sys.stdout.write(script(program, settings.shell, verbs))
    return 0


def script(program: str, shell: str, verbs: Verbs) -> str:
    """What a shell reads to complete a program; `shell` is one of SHELLS."""
    made = setting_flags.parser(verbs[""], program, "", _completed)
    below = made.add_subparsers(metavar="VERB")
    for verb, kind in verbs.items():
        if verb:
            own = setting_flags.parser(kind, f"{program} {verb}", "", _completed)
            about = (kind.__doc__ or "").partition("\n")[0]
            below.add_parser(verb, parents=[own], add_help=False, help=about)
    return shtab.complete(made, shell)


def _completed(action: argparse.Action, field: FieldInfo | None) -> None:
    """Has shtab offer the values that a field may have, or files for a path."""
    if field is not None and (values := setting_flags.values_of(field)):
        action.choices = values
    elif field is None or setting_flags.metavar(field) in ("PATH", "FILE", "FOLDER"):
        action.complete = shtab.FILE  # type: ignore[attr-defined]
