"""docs/aggregation.md names every rule with what it needs, and every oddity that is counted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.aggregation import RuleName
from server.records import Anomaly

TEXT = (Path(__file__).parents[2] / "docs" / "aggregation.md").read_text()


def rows(head: str) -> dict[str, list[str]]:
    """The rows of the table under a head, by what stands in their first cell."""
    table = TEXT.split(head)[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_kind_that_is_counted_is_told() -> None:
    assert list(rows("| kind | what was odd | the update |")) == [str(kind) for kind in Anomaly]


@pytest.mark.parametrize("byzantine", [1, 2, 5])
def test_every_rule_needs_as_many_updates_as_is_told(byzantine: int) -> None:
    told = rows("| rule | what the model moves by | updates needed | source |")
    assert list(told) == [str(rule) for rule in RuleName]
    for rule in RuleName:
        found = re.fullmatch(r"(?:(\d+)F \+ )?(\d+)", told[rule][1])
        assert found is not None
        assert int(found[1] or 0) * byzantine + int(found[2]) == rule.fewest(byzantine)
