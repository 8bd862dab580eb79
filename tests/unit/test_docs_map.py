"""The map of all pages, and whether the page on architecture speaks of what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.markdown import Block, blocks, commands
from support.namespaces import ROOT

from client.settings import ClientSettings
from server.settings import ServerSettings

DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "architecture.md"
LINK = re.compile(r"\]\(([^)#]+\.md)(?:#[^)]*)?\)")
READERS = ("ML engineer", "data holder", "data-protection officer", "operator", "contributor")
PORT = re.compile(r"\| (\d+) \| (server|client) \|.*\| `--([a-z-]+)` \| ([^|]+) \|")
PACKAGES = [
    path.parent.relative_to(ROOT)
    for top in ("fednot", "server", "client")
    for path in sorted((ROOT / top).glob("*/__init__.py"))
    if path.parent.name != "v1"
]


def test_the_map_has_every_page() -> None:
    linked = LINK.findall((DOCS / "README.md").read_text())
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"README.md"}
    kept = {page for page in pages if not page.startswith("decisions/")}

    assert kept - set(linked) == set(), "docs/README.md does not link these"


def test_the_map_has_a_part_for_every_reader() -> None:
    text = (DOCS / "README.md").read_text()
    assert [reader for reader in READERS if f"## The {reader}, who" not in text] == []


def test_the_readme_links_the_map_and_the_tutorial() -> None:
    assert {"docs/README.md", "docs/tutorial.md"} <= set(
        LINK.findall((ROOT / "README.md").read_text())
    )


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_every_package_is_on_the_page_on_architecture(package: Path) -> None:
    assert re.search(rf"`{package}[`/]", ARCHITECTURE.read_text())


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`([a-z_0-9/]+/[a-z_0-9]+\.py)`", ARCHITECTURE.read_text()))

    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_port_is_the_one_of_its_setting() -> None:
    rows = PORT.findall(ARCHITECTURE.read_text())
    kinds = {"server": ServerSettings, "client": ClientSettings}

    assert {int(port) for port, *_ in rows} == {50051, 50052, 50053, 9464, 9465, 9466}
    for port, kind, flag, default in rows:
        field = kinds[kind].model_fields.get(flag.replace("-", "_"))
        assert field is not None, f"fednot-{kind} has no --{flag}"
        assert (field.default or "none") == default.strip(), flag
        assert default.strip() in ("none", f"127.0.0.1:{port}")


def test_every_node_of_the_diagram_is_named_and_each_arrow_joins_two() -> None:
    [diagram] = [block for block in blocks(ARCHITECTURE) if block.language == "mermaid"]
    named, joined = nodes(diagram.text)

    assert joined <= named
    assert named - joined == set(), "nothing leads there"
    assert {"client", "cli", "prometheus", "console", "guard", "channel", "enrol"} <= named
    shown = {int(port) for port in re.findall(r"<br/>(\d{4,5})", diagram.text)}
    assert shown == {50051, 50052, 50053, 9464, 9466}


def test_nobody_dials_a_client_in_the_diagram() -> None:
    [diagram] = [block for block in blocks(ARCHITECTURE) if block.language == "mermaid"]
    dialled = re.compile(r">\s*client\b")
    assert not dialled.search(diagram.text)
    assert dialled.search(diagram.text.replace("==> guard", "==> client"))


def nodes(diagram: str) -> tuple[set[str], set[str]]:
    """The nodes that have words, and those that an arrow joins."""
    named = set(re.findall(r"(?<!subgraph )\b([a-z]+)\[", diagram))
    bare = re.sub(r"\[+\(?\".*?\"\)?\]+|-[-.] \".*?\" [-.]|== \".*?\" =", "", diagram)
    joined: set[str] = set()
    for line in bare.splitlines():
        ends = re.split(r"\s*[-=.]+>\s*", line.strip())
        joined |= set(ends) if len(ends) > 1 else set()
    return named, joined


def test_blocks_have_their_language_lead_and_heading(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\nIn the **first terminal**,\ntype:\n\n```sh\nls \\\n  -l  # long\n```\n")

    [block] = blocks(page)

    assert block == Block("sh", "ls \\\n  -l  # long", "In the **first terminal**, type:", "A", 6)
    assert commands(block.text) == ["ls -l"]


def test_a_block_without_an_end_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nls\n")
    with pytest.raises(ValueError, match=r"page\.md:1: a block without an end"):
        blocks(page)
