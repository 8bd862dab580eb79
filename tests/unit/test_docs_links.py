"""Every link of the pages leads to a file and a heading that there are. Nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support.pages import ROOT, anchors, links, pages


def fault_of(link: str, page: Path) -> str:
    """What is wrong with a link of a page; "" if nothing is."""
    parts = urlsplit(link)
    if parts.scheme == "mailto":
        return "" if "@" in parts.path else "no address"
    if parts.scheme or parts.netloc:
        good = parts.scheme in ("http", "https") and "." in (parts.hostname or "")
        return "" if good else "no address of the web"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_relative_to(ROOT) or not target.exists():
        return "no such file"
    if parts.fragment and parts.fragment not in anchors(target.read_text(encoding="utf-8")):
        return "no such heading"
    return ""


def test_every_link_leads_somewhere() -> None:
    found = [
        f"{page.relative_to(ROOT)}: {link}: {fault}"
        for page in pages()
        for link in links(page.read_text(encoding="utf-8"))
        if (fault := fault_of(link, page))
    ]
    assert found == []


def test_links_are_found_at_all() -> None:
    assert sum(len(links(page.read_text(encoding="utf-8"))) for page in pages()) > 100


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("docs/cli.md#exit-codes", ""),
        ("https://arxiv.org/abs/2503.05657", ""),
        ("docs/none.md", "no such file"),
        ("../../../etc/passwd", "no such file"),
        ("docs/cli.md#no-such", "no such heading"),
        ("#no-such", "no such heading"),
        ("htp://example.org/", "no address of the web"),
        ("https:///path", "no address of the web"),
    ],
)
def test_each_fault_is_seen(link: str, fault: str) -> None:
    assert fault_of(link, ROOT / "README.md") == fault


def test_links_in_code_are_none_and_brackets_in_names_are_kept() -> None:
    text = "[a](b.md) `[c](d.md)`\n```\n[e](f.md)\n```\n![picture [1]](g.png) [h](i_(j).md)"
    assert links(text) == ["b.md", "g.png", "i_(j).md"]


def test_anchors_are_those_of_github() -> None:
    text = "# `fednot` & [a link](b.md): *one*\n## Twice\n## Twice\n```\n# no heading\n```\n"
    assert anchors(text) == {"fednot--a-link-one", "twice", "twice-1"}
