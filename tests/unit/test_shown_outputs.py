"""How what a page shows of an output is compared with what was printed."""

from __future__ import annotations

import pytest
from support.terminal import shown

PRINTED = """run 1: active
[1 of 2] round 1: accuracy 0.50
[2 of 2] round 2: accuracy 0.60
job-0123456789ab since 2026-11-28 12:00:00Z, 4 s ago
NAME    STATE
office  idle
"""


@pytest.mark.parametrize(
    "expected",
    [
        "run 1: active\n...\n[2 of 2] round 2: accuracy 0.99",
        "[1 of 2] round 1: ...\n[2 of 2] ...",
        "job-aaaaaaaaaaaa since 2027-01-01 01:02:03Z, 7 s ago",
        "...\nNAME STATE\noffice   idle",
        "run 1: active\n...\noffice ...",
        "run 1: active ...\n[1 of 2] ... accuracy 0.10 ...",
    ],
)
def test_what_is_shown_may_differ_in_fractions_times_and_ids(expected: str) -> None:
    assert shown(expected, PRINTED) is None


@pytest.mark.parametrize(
    ("expected", "line"),
    [
        ("run 2: active", "run 2: active"),
        ("run 1: active\n[2 of 2] round 2: accuracy 0.60", "[2 of 2] round 2: accuracy 0.60"),
        ("[2 of 2] ...\n...\n[1 of 2] ...", "[1 of 2] ..."),
        ("office  busy", "office  busy"),
        ("round 1: accuracy 0.50", "round 1: accuracy 0.50"),
    ],
)
def test_the_first_line_that_was_not_printed_is_told(expected: str, line: str) -> None:
    assert shown(expected, PRINTED) == line
