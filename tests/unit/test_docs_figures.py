"""Numbers that the pages tell in sentences are the constants of the code."""

from __future__ import annotations

import math

import pytest
from support.pages import ROOT

from fednot import distributed, loop, loss_profile
from fednot.cli import unlearning
from fednot.cli.preflight import network, storage
from fednot.identity import authority, authority_files, lifetime
from fednot.receipt import plots
from server import audit, resumption
from server.cohorts import remote
from server.console import listener as console
from server.console import protocol, sessions
from server.maintenance import restore
from server.services import identity, signing
from server.state import token_rows
from server.verification import attacks

HOUR, DAY = 3600, 24 * 3600
DECADES = 10
"""Of the losses in a receipt: from 1e-8 to 100."""

FIGURES: dict[str, list[str]] = {
    "audit.md": [
        f"within {audit.WINDOW:.0f} seconds as one entry",
        f"in more than {audit.MOST_KINDS} ways at once",
    ],
    "architecture.md": [
        f"at least {resumption.SHORTEST_SECONDS:.0f} s",
        f"not back within {remote.REJOIN_SECONDS:.0f} s",
    ],
    "certificates.md": [
        f"An authority is good for {authority.AUTHORITY_DAYS:.0f} days",
        f"a certificate for {authority_files.CERTIFICATE_DAYS:.0f} and",
        f"warn in the last {lifetime.WARNING.days} days",
        f"works again for {token_rows.REPEAT_SECONDS / 60:.0f} minutes",
        f"at most {identity.LONGEST_TOKEN_SECONDS / DAY:.0f} days",
    ],
    "cli.md": [
        f"a warning above {network.CLOCKS_APART:.0f} s",
        f"{storage.LEAST_FREE / 1e6:.0f} MB at the least",
        f"a warning below {storage.LITTLE_FREE / 1e9:.0f} GB",
        f"within {math.ceil(sum(unlearning.RETRY_PAUSES))} seconds while the server",
    ],
    "configuration.md": [f"at most {signing.MOST_SIGNED} certificates an hour"],
    "console.md": [
        f"ends after {sessions.SESSION_SECONDS / HOUR:.0f} hours",
        f"One identity has {sessions.MOST_OF_ONE} at the most",
        f"At most {console.MOST_CONNECTIONS} connections",
        f"a handshake has {console.HANDSHAKE_SECONDS:.0f} s",
        f"ends after {protocol.CONNECTION_SECONDS:.0f} s, or "
        f"{protocol.CONNECTION_SECONDS + protocol.LAST_SECONDS:.0f} s if",
    ],
    "existing-code.md": [
        f"waited for at most {distributed.COLLECTIVE_SECONDS / 60:.0f} minutes",
    ],
    "forgetting.md": [f"in each of {loss_profile.BINS} bins"],
    "receipts.md": [f"counts over {DECADES * plots.PER_DECADE + 2} bins"],
    "verification.md": [
        f"counts of samples in {loss_profile.BINS} bins",
        f"{attacks.RESAMPLES:,} draws of both groups",
        f"Samples fewer than {attacks.FEWEST} give no verdict",
        f"stratified {attacks.FOLDS}-fold",
    ],
}


WORDS = [
    ("existing-code.md", "It has ten minutes until `join`", loop.JOIN_SECONDS, 10 * 60),
    ("operations.md", "left out, a million of them", restore.LOST_ROUNDS, 10**6),
    ("console.md", "once and for two minutes", sessions.LINK_SECONDS, 2 * 60),
    ("certificates.md", "one key and for an hour", identity.TOKEN_SECONDS, HOUR),
]
"""Where the page has words for a number: what it says, the constant, and what that must be."""


def text_of(name: str) -> str:
    """A page in one line."""
    return " ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", FIGURES)
def test_a_page_tells_the_numbers_of_the_code(name: str) -> None:
    assert [figure for figure in FIGURES[name] if figure not in text_of(name)] == []


@pytest.mark.parametrize(("name", "said", "constant", "number"), WORDS)
def test_a_page_tells_a_number_in_words(
    name: str, said: str, constant: float, number: float
) -> None:
    assert said in text_of(name)
    assert constant == number
