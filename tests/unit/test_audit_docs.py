"""docs/audit.md names every action that the server writes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from server.records import JobPhase

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "audit.md").read_text()
ACTION = re.compile(
    r"(approval|client|deletion|job|ledger|receipt|receipt-key|scope|state|updates|versions)\.[a-z-]+"
    r"|(Approval|Audit|Deletion|Operator|Receipt)Service\.[A-Za-z]+"
)
NO_ACTIONS = {"ledger.jsonl", "receipt-key.pem", "state.sqlite3", "versions.number"}
FIRST = JobPhase.AWAITING
"""A job only begins in it, which is told by what asked for it."""


def actions_in(text: str) -> set[str]:
    """The actions that a module writes out in full."""
    found = {
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {value for value in found - NO_ACTIONS if ACTION.fullmatch(value)}


def test_every_action_is_in_the_table() -> None:
    paths = sorted((ROOT / "server").rglob("*.py"))
    written = {action for path in paths for action in actions_in(path.read_text())}
    assert {"deletion.overdue", "receipt.issued", "ReceiptService.RotateReceiptKey"} <= written
    written |= {f"job.{phase}" for phase in JobPhase if phase is not FIRST}
    table = TEXT.partition("## What is recorded")[2].partition("\n## ")[0]
    assert {action for action in written if f"`{action}`" not in table} == set()


def test_an_action_is_seen() -> None:
    assert actions_in('note("job.verified", "state.sqlite3", "x.y")') == {"job.verified"}
