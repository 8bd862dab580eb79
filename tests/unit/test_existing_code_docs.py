"""docs/existing-code.md shows what the examples hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "existing-code.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
EXAMPLES = {path.name: path.read_text() for path in (ROOT / "examples").glob("*.py")}


def test_there_are_blocks() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_stands_in_an_example(block: str) -> None:
    assert any(block in text for text in EXAMPLES.values())
