"""The newest entries of the audit come first where people look, in few calls."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from support.browser import Browser
from support.served import ANY_PORT, CALL, Served, served
from support.state import BY_TEST
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.identity.subject import Role
from fednot.v1 import audit_pb2, audit_pb2_grpc
from server.records import AuditEvent, Caller
from server.state import audit_rows

ENTRIES = 60
DORA = Caller(Role.OFFICER, "dora")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    def fill(connection: Any) -> None:
        for number in range(ENTRIES):
            audit_rows.append(connection, AuditEvent(DORA, f"test.{number + 1}"), float(number))

    async with served(tmp_path, console_address=ANY_PORT) as found:
        await found.federation.database.write(BY_TEST, fill)
        yield found


async def numbers_of(server: Served, *words: str) -> list[int]:
    identity = str(server.identities.of(Role.AUDITOR, "ada"))
    given = ["audit", "--server", server.address, "--identity", identity, "--format", "json"]
    found = await asyncio.to_thread(CliRunner().invoke, app, [*given, *words])
    assert found.exit_code == 0, found.output
    return [int(entry["sequence"]) for entry in json.loads(found.stdout)["entries"]]


async def test_pages_newest_first_follow_each_other(server: Served) -> None:
    stub = audit_pb2_grpc.AuditServiceStub(server.dial(Role.AUDITOR, "ada"))
    request = audit_pb2.ListAuditEntriesRequest(page_size=25, newest_first=True)
    numbers: list[int] = []
    while True:
        page = await stub.ListAuditEntries(request, timeout=CALL)
        numbers += [entry.sequence for entry in page.entries]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert numbers == list(range(ENTRIES, 0, -1))


async def test_the_console_begins_with_the_newest(server: Served) -> None:
    trust = server.identities.authority.directory / "server" / "ca.pem"
    ada = Browser(server.console_port, trust, server.identities.of(Role.AUDITOR, "ada"))
    first = await ada.get("/audit")
    numbers = [int(each) for each in re.findall(r'<th scope="row">(\d+)</th>', first.text)]
    assert numbers == list(range(ENTRIES, ENTRIES - 50, -1))
    (path,) = re.findall(r'<a href="(\?after=\d+)">Older entries', first.text)
    second = await ada.get(f"/audit{path}")
    numbers = [int(each) for each in re.findall(r'<th scope="row">(\d+)</th>', second.text)]
    assert numbers == list(range(10, 0, -1))
    assert "Older entries" not in second.text


async def test_the_command_asks_for_no_more_than_it_shows(server: Served) -> None:
    asked = []
    listed = audit_rows.list_newest

    def counted(connection: Any, before: int, size: int) -> Any:
        asked.append(size)
        return listed(connection, before, size)

    with patch.object(audit_rows, "list_newest", counted):
        assert await numbers_of(server, "--limit", "3") == [58, 59, 60]
        assert await numbers_of(server, "--limit", "1") == [60]
        assert asked == [3, 2]
        assert await numbers_of(server, "--limit", "5000") == list(range(1, 61))


@pytest.mark.parametrize("limit", [1, 7])
async def test_a_server_that_knows_one_order_only_is_read_to_its_end(
    server: Served, limit: int
) -> None:
    with patch.object(audit_rows, "list_newest", audit_rows.list_entries):
        assert await numbers_of(server, "--limit", str(limit)) == list(range(61 - limit, 61))
