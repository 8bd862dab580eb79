"""The one table of the server's options that exclude each other; docs/secure-aggregation.md has it.

A row is refused when the settings are read, before anything is opened or served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fednot.codecs import NAMES
from fednot.secure_aggregation.terms import FEWEST_CLIENTS

if TYPE_CHECKING:
    from server.settings import ServerSettings


@dataclass(frozen=True)
class Exclusion:
    """Two options that cannot be had together, and why.

    `holds` says whether settings have the second; `remedy` is what to do instead.
    """

    first: str
    second: str
    reason: str
    remedy: str
    holds: Callable[[ServerSettings], bool]

    @property
    def sentence(self) -> str:
        """What the settings are refused with."""
        return f"{self.first} excludes {self.second}: {self.reason}; {self.remedy}"


_SECURE: Final = "--secure-aggregation"

WITH_SECURE_AGGREGATION: Final = (
    Exclusion(
        _SECURE,
        "--insecure",
        "clients sign their keys with their certificates, and over plaintext nobody has one",
        "give --authority DIR or --identity FOLDER",
        lambda settings: settings.insecure,
    ),
    Exclusion(
        _SECURE,
        f"--min-clients below {FEWEST_CLIENTS}",
        "the sum of two updates shows each of two clients the other's",
        f"give --min-clients {FEWEST_CLIENTS} or more",
        lambda settings: settings.min_clients < FEWEST_CLIENTS,
    ),
    Exclusion(
        _SECURE,
        "--aggregation other than mean",
        "median, trimmed-mean and multi-krum compare single updates, which the server cannot read",
        "keep --aggregation mean",
        lambda settings: settings.aggregation != "mean",
    ),
    Exclusion(
        _SECURE,
        "--recovery-aggregation other than mean",
        "recovery rounds are masked, too, so their single updates cannot be compared",
        "leave --recovery-aggregation out",
        lambda settings: settings.recovery_aggregation not in ("", "mean"),
    ),
    Exclusion(
        _SECURE,
        "--clip-norm",
        "the norm of a masked update cannot be seen; clients clip each element to --mask-range "
        "and prove nothing",
        "leave --clip-norm out",
        lambda settings: settings.clip_norm > 0,
    ),
    Exclusion(
        _SECURE,
        "--codecs",
        "masks are added in a ring of integers, so floats and sparse updates cannot be masked",
        "leave --codecs out; every update is encoded as masked",
        lambda settings: settings.codecs != NAMES,
    ),
    Exclusion(
        _SECURE,
        "--keep-updates",
        "single updates are masked, so keeping them tells nothing",
        "leave --keep-updates out",
        lambda settings: settings.keep_updates > 0,
    ),
)


def check(settings: ServerSettings) -> None:
    """Raises ValueError with the reason if settings have two options that exclude each other."""
    if not settings.secure_aggregation:
        return
    for row in WITH_SECURE_AGGREGATION:
        if row.holds(settings):
            raise ValueError(row.sentence)
