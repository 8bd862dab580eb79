"""The project's pages as tests read them: fences, links, anchors and lines for a shell."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\s*$")
LINK = re.compile(
    r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()\s>]*(?:\([^()\s]*\))?[^()\s>]*)>?[^()]*\)"
)
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)?$", re.MULTILINE)
ANCHOR = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")
SHELLS = {"", "sh", "bash", "shell", "console"}


@dataclass(frozen=True)
class Fence:
    """A block of code; `line` is that of its opening fence."""

    language: str
    text: str
    line: int


def pages() -> list[Path]:
    """README, CHANGELOG, CONTRIBUTING and everything below docs/."""
    top = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def fences(text: str) -> Iterator[Fence]:
    """The blocks of code of a page."""
    opened: tuple[str, str, int] | None = None
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        found = FENCE.match(line)
        if opened is None and found:
            opened, lines = (found["language"], found["indent"], number), []
        elif opened is not None and found and not found["language"]:
            yield Fence(opened[0], "\n".join(lines) + "\n", opened[2])
            opened = None
        elif opened is not None:
            lines.append(line.removeprefix(opened[1]))


def prose(text: str) -> str:
    """The page without blocks and pieces of code."""
    kept, inside = [], False
    for line in text.splitlines():
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "`code`", "\n".join(kept))


def links(text: str) -> list[str]:
    """Where the links and pictures of a page lead."""
    return LINK.findall(prose(text))


@functools.cache
def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page, and those that stand in it."""
    outside = "\n".join(
        line for line, inside in _with_fences(text) if not inside and not FENCE.match(line)
    )
    found: set[str] = set()
    for heading in HEADING.findall(outside):
        slug, count = _slug(heading), 0
        name = slug
        while name in found:
            count += 1
            name = f"{slug}-{count}"
        found.add(name)
    return found | set(ANCHOR.findall(text))


def commands(text: str) -> list[str]:
    """The lines for a shell, without prompts and comments, with continued lines as one."""
    joined = re.sub(r" *\\\n\s*", " ", text)
    return [line.strip().removeprefix("$ ") for line in joined.splitlines()]


def _with_fences(text: str) -> Iterator[tuple[str, bool]]:
    inside = False
    for line in text.splitlines():
        if FENCE.match(line):
            inside = not inside
        yield line, inside


def _slug(heading: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    kept = re.sub(r"[^\w\- ]", "", plain.strip().lower())
    return kept.replace(" ", "-")
