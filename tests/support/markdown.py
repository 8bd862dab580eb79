"""What a page of documentation holds that a test can execute: fenced blocks, with their context."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = "```"
HEADING = re.compile(r"(#+) +(.*)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the paragraph and the heading above it."""

    language: str
    text: str
    lead: str
    heading: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. Raises ValueError if the last one has no end."""
    return list(_blocks(page.read_text(encoding="utf-8").splitlines(), page.name))


def _blocks(lines: list[str], name: str) -> list[Block]:
    found: list[Block] = []
    heading = lead = ""
    paragraph: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.startswith(FENCE):
            start = number
            while number < len(lines) and lines[number] != FENCE:
                number += 1
            if number == len(lines):
                raise ValueError(f"{name}:{start}: a block without an end")
            text = "\n".join(lines[start:number])
            found.append(Block(line[3:].strip(), text, " ".join(paragraph) or lead, heading, start))
            paragraph, lead = [], ""
            number += 1
        elif matched := HEADING.fullmatch(line):
            heading, paragraph = matched[2], []
        elif line.strip():
            paragraph.append(line.strip())
        else:
            lead, paragraph = " ".join(paragraph) or lead, []
    return found


def commands(text: str) -> list[str]:
    """The commands of a block of shell: comments are left out, continued lines are joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (re.sub(r"(^|\s+)#\s.*$", "", line) for line in joined.splitlines())
    return [line.strip() for line in lines if line.strip()]
