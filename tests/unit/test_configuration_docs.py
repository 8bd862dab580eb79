"""docs/configuration.md names every setting of both daemons, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from client.settings import ClientSettings
from server.settings import ServerSettings

ROOT = Path(__file__).parents[2]


def test_the_documented_flags_are_those_that_there_are() -> None:
    server, client = documented((ROOT / "docs" / "configuration.md").read_text())
    assert server == flags(ServerSettings.model_fields)
    assert client == flags(ClientSettings.model_fields)


def test_a_flag_without_a_row_is_found() -> None:
    server, client = documented("## `fednot-server`\n| `--a` | | x |\n## `fednot-client`\n")
    assert (server, client) == (["--a"], [])


def documented(text: str) -> tuple[list[str], list[str]]:
    server, client = text.split("## `fednot-server`")[1].split("## `fednot-client`")
    rows = re.compile(r"^\| `(--[a-z-]+)` \|", re.MULTILINE)
    return rows.findall(server), rows.findall(client)


def flags(fields: dict[str, object]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in fields]
