"""A report as one page of Markdown and one of HTML, made from the same parts."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from lab.report.tables import Table


@dataclass(frozen=True)
class Picture:
    """A plot: its file beside the report, its SVG, and what it shows in a sentence."""

    file: str
    svg: str
    says: str

    @property
    def uri(self) -> str:
        """The plot itself as an address, so that a page needs no other file."""
        return f"data:image/svg+xml;base64,{b64encode(self.svg.encode()).decode()}"


@dataclass(frozen=True)
class Section:
    """What a report says of one group."""

    title: str
    sentences: tuple[str, ...]
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    sentences: tuple[str, ...]
    sections: tuple[Section, ...]


def markdown(page: Page) -> str:
    """The page as Markdown; plots are files beside it."""
    return "\n".join(_lines(page)).rstrip() + "\n"


def html(page: Page) -> str:
    """The page as one HTML file that needs no other, no script and no network."""
    return _template().render(page=page)


def _lines(page: Page) -> Iterator[str]:
    yield from (f"# {_escaped(page.title)}", "")
    yield from _bullets(page.sentences)
    for section in page.sections:
        yield from (f"## {_escaped(section.title)}", "")
        yield from _bullets(section.sentences)
        for table in section.tables:
            yield from _table(table)
        for picture in section.pictures:
            yield from (f"![{_escaped(picture.says)}]({picture.file})", "")


def _bullets(sentences: Sequence[str]) -> Iterator[str]:
    yield from (f"- {_escaped(sentence)}" for sentence in sentences)
    if sentences:
        yield ""


def _table(table: Table) -> Iterator[str]:
    yield from (f"### {_escaped(table.title)}", "", _row(table.header))
    yield _row(["---"] * len(table.header))
    yield from (_row([_escaped(cell) for cell in row]) for row in table.rows)
    yield ""
    if table.note:
        yield from (_escaped(table.note), "")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """On one line, and free of what Markdown would read as a mark or a cell's end."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("lab.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
