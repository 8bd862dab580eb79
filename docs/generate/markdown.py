"""Texts of code as cells and tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; "" if it has no rows."""
    lines = [_line(row) for row in rows]
    return "\n".join([_line(head), "|" + "---|" * len(head), *lines]) if lines else ""


def cell(text: str) -> str:
    """A text as it stands in a cell: on one line, with `|` and `<` as characters."""
    parts = " ".join(text.split()).replace("|", r"\|").split("`")
    return "`".join(part if at % 2 else _plain(part) for at, part in enumerate(parts))


def sentence(text: str) -> str:
    """A text of the code as a sentence: a capital first, a full stop last."""
    text = " ".join(text.split())
    if not text:
        return ""
    first = text[0].upper() + text[1:] if text[:2].isalpha() or text[1:2] == " " else text
    return first if first.endswith((".", "!", "?")) else f"{first}."


def code(text: object) -> str:
    """A text as code; "" stays empty."""
    return f"`{text}`" if str(text) else ""


def join(*blocks: str) -> str:
    """The blocks that are not empty, with a line between."""
    return "\n\n".join(block.strip() for block in blocks if block.strip())


def _line(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"


def _plain(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", r"\*")
