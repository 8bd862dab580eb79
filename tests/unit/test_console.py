"""The console over real HTTPS sockets: who sees what, tokens, forms, headers and escaping."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from support.browser import PATIENCE, Browser
from support.served import ANY_PORT, CALL, Served, eventually, refusal, served
from support.state import BY_TEST
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role, Subject
from fednot.v1 import deletion_pb2, deletion_pb2_grpc, identity_pb2, identity_pb2_grpc
from server.console import calls, protocol
from server.console import listener as listening
from server.console.forms import MOST_BYTES
from server.console.rendering import static_files
from server.records import ClientRecord
from server.services.door import Door
from server.settings import ServerSettings
from server.state import client_rows

HOSTILE = "<script>alert('&')</script>"
PAGES = {
    "/": set(Role) - {Role.CLIENT, Role.SERVER},
    "/rounds": {Role.OFFICER, Role.OPERATOR, Role.AUDITOR},
    "/clients": {Role.OFFICER, Role.OPERATOR, Role.AUDITOR},
    "/versions": {Role.OFFICER, Role.OPERATOR, Role.AUDITOR},
    "/audit": {Role.OFFICER, Role.AUDITOR},
    "/deletions": {Role.OFFICER, Role.OPERATOR, Role.AUDITOR, Role.CLIENT},
    "/deletions/new": {Role.OFFICER},
    "/approvals": {Role.OFFICER, Role.OPERATOR, Role.AUDITOR},
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, console_address=ANY_PORT) as found:
        await joined(found, "c1", "c2")
        yield found


async def joined(server: Served, *names: str, device: str = "cpu") -> None:
    for name in names:
        record = ClientRecord(
            name=name,
            joined_at=time.time(),
            last_seen_at=time.time(),
            num_train_examples=7,
            num_test_examples=3,
            device=device,
        )
        await server.federation.database.write(
            BY_TEST, lambda c, record=record: client_rows.record_join(c, record)
        )


def browser(server: Served, identity: Path | None = None) -> Browser:
    trust = server.identities.authority.directory / "server" / "ca.pem"
    return Browser(server.console_port, trust, identity)


def with_certificate(server: Served, role: Role, name: str = "x1") -> Browser:
    return browser(server, server.identities.of(role, name))


async def link(server: Served, role: Role, name: str) -> str:
    stub = identity_pb2_grpc.IdentityServiceStub(server.dial(role, name))
    made = await stub.CreateConsoleLink(identity_pb2.CreateConsoleLinkRequest(), timeout=CALL)
    assert made.port == server.console_port
    return made.path


async def signed_in(server: Served, role: Role, name: str) -> Browser:
    found = browser(server)
    answer = await found.post("/sign-in", {"code": await link(server, role, name)})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    return found


async def reviewed(found: Browser, **fields: str) -> dict[str, str]:
    """The fields with which the page of confirmation asks for a deletion."""
    proof = (await found.get("/deletions/new")).proof
    answer = await found.post("/deletions/review", {"proof": proof, "kind": "client"} | fields)
    assert answer.status == 200, answer.text
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', answer.text))


async def deletions_of(server: Served) -> list[deletion_pb2.Deletion]:
    stub = deletion_pb2_grpc.DeletionServiceStub(server.dial(Role.OFFICER, "dora"))
    found = await stub.ListDeletions(deletion_pb2.ListDeletionsRequest(), timeout=CALL)
    return list(found.deletions)


@pytest.mark.parametrize("role", [Role.CLIENT, Role.OFFICER, Role.OPERATOR, Role.AUDITOR])
async def test_a_certificate_sees_what_its_role_may(server: Served, role: Role) -> None:
    found = with_certificate(server, role)
    for path, roles in PAGES.items():
        answer = await found.get(path)
        if path == "/" and role is Role.CLIENT:
            assert (answer.status, answer.headers["location"]) == (303, "/deletions")
        else:
            assert (answer.status == 200) is (role in roles), (path, answer.status)
            assert answer.status in (200, 403)
    home = await found.get("/deletions")
    assert ('href="/deletions/new"' in home.text) is (role is Role.OFFICER)
    assert ('href="/clients"' in home.text) is (role is not Role.CLIENT)


async def test_without_an_identity_there_is_only_the_sign_in(server: Served) -> None:
    stranger = browser(server)
    for path in PAGES:
        answer = await stranger.get(path)
        assert answer.status == 401
        assert "<h1>Sign in</h1>" in answer.text
        assert "c1" not in answer.text
    assert (await stranger.get("/static/console.js")).status == 200
    assert (await stranger.get("/static/..%2fapplication.py")).status == 404


async def test_what_a_call_refuses_the_console_refuses_with_the_same_sentence(
    server: Served,
) -> None:
    page = await with_certificate(server, Role.OPERATOR, "olga").get("/audit")
    assert page.status == 403
    told = "operator/olga may not call AuditService.ListAuditEntries; these roles may: "
    assert f"{told}auditor, officer" in page.text
    operator = with_certificate(server, Role.OPERATOR, "olga")
    proof = (await with_certificate(server, Role.OFFICER, "dora").get("/deletions/new")).proof
    fields = {"kind": "client", "client": "c1", "request_id": "r1", "proof": proof}
    assert (await operator.post("/deletions", fields)).status == 403
    assert await deletions_of(server) == []
    assert ("operator", "AuditService.ListAuditEntries", "refused", "WRONG_ROLE") in (
        await server.audited()
    )


async def test_a_link_opens_one_session_once(server: Served) -> None:
    path = await link(server, Role.OFFICER, "dora")
    first, second = browser(server), browser(server)
    answer = await first.post("/sign-in", {"code": path})
    cookie = answer.headers["set-cookie"]
    for mark in ("__Host-fednot=", "HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert mark in cookie
    assert "officer/dora" in (await first.get("/")).text
    again = await second.post("/sign-in", {"code": path})
    assert again.status == 401
    assert "was used before" in again.text
    assert not second.cookie
    assert ("", "Console.SignIn", "refused", "INVALID_TOKEN") in await server.audited()
    assert ("officer", "IdentityService.CreateConsoleLink", "accepted", "") in (
        await server.audited()
    )


async def test_a_session_ends_by_signing_out(server: Served) -> None:
    found = await signed_in(server, Role.OPERATOR, "olga")
    proof, cookie = (await found.get("/")).proof, found.cookie
    assert (await found.post("/sign-out", {"proof": proof})).status == 303
    found.cookie = cookie
    assert (await found.get("/")).status == 401


async def test_a_session_ends_when_its_identity_is_revoked(server: Served) -> None:
    found = await signed_in(server, Role.OFFICER, "dora")
    shown = with_certificate(server, Role.OFFICER, "dora")
    assert (await found.get("/")).status == 200
    server.identities.authority.revoke(
        Subject(Role.OFFICER, "dora", server.identities.authority.domain)
    )
    pem = (server.identities.of(Role.OFFICER, "dora") / "cert.pem").read_bytes()
    await eventually("the server reads its files", lambda: not server.identity.holds(pem))
    answer = await found.get("/")
    assert answer.status == 401
    assert "revoked" in answer.text
    assert (await shown.get("/")).status == 401


async def test_a_form_from_another_site_does_nothing(server: Served) -> None:
    found = await signed_in(server, Role.OFFICER, "dora")
    fields = await reviewed(found, client="c1")
    without = {name: value for name, value in fields.items() if name != "proof"}
    assert (await found.post("/deletions", without)).status == 403
    others = await signed_in(server, Role.OFFICER, "emil")
    stolen = (await others.get("/deletions/new")).proof
    assert (await found.post("/deletions", without | {"proof": stolen})).status == 403
    for headers in ({"Origin": "https://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        assert (await found.post("/deletions", fields, **headers)).status == 403
        assert (await found.post("/sign-in", {"code": "x"}, **headers)).status == 403
    answer = await found.post("/deletions", fields, Content_Type="text/plain")
    assert answer.status == 415
    assert await deletions_of(server) == []


async def test_a_deletion_is_confirmed_and_a_double_click_is_one(server: Served) -> None:
    found = await signed_in(server, Role.OFFICER, "dora")
    fields = await reviewed(found, client="c1", assurance="deep")
    assert await deletions_of(server) == []
    both = await asyncio.gather(*(found.post("/deletions", fields) for _ in range(2)))
    assert [answer.status for answer in both] == [303, 303]
    (made,) = await deletions_of(server)
    assert {answer.headers["location"] for answer in both} == {f"/deletions/{made.job.id}"}
    assert made.scope.client == "c1"
    assert made.request_id == fields["request_id"]
    assert made.requested_by.name == "dora"
    page = await found.get(f"/deletions/{made.job.id}")
    assert "No receipt yet" in page.text
    receipt = await found.get(f"/deletions/{made.job.id}/receipt")
    assert receipt.status == 409
    assert "has no receipt" in receipt.text


@pytest.mark.parametrize(("reason", "status"), [(Reason.SERVER_BUSY, 429), (Reason.INTERNAL, 500)])
async def test_a_deletion_whose_answer_was_lost_is_sent_again_and_is_one(
    server: Served, reason: Reason, status: int
) -> None:
    """It was taken, and then its caller's certificate was judged again, or time was up."""
    found = await signed_in(server, Role.OFFICER, "dora")
    fields = await reviewed(found, client="c1")
    lost = FednotError(reason, "while the call was served: something; send it again")
    with patch.object(Door, "judge_again", side_effect=[lost, None]):
        answer = await found.post("/deletions", fields)
    assert answer.status == status
    assert "Refused" not in answer.text
    assert 'name="kind"' not in answer.text, "a form anew would be another request"
    again = await found.post("/deletions", fields)
    (made,) = await deletions_of(server)
    assert (again.status, again.headers["location"]) == (303, f"/deletions/{made.job.id}")
    assert made.request_id == fields["request_id"]


async def test_the_confirmation_says_what_will_happen(server: Served) -> None:
    found = await signed_in(server, Role.OFFICER, "dora")
    proof = (await found.get("/deletions/new")).proof
    fields = {"proof": proof, "kind": "samples", "client": "c1", "subject": HOSTILE}
    page = await found.post("/deletions/review", fields)
    assert "Client c1 is told to bar the samples of" in page.text
    assert "destroyed for good" in page.text
    assert HOSTILE not in page.text
    assert "&lt;script&gt;" in page.text


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kind": "client"}, "scope.client: name the client to forget"),
        ({"kind": "class", "label": "-1"}, "label: must be the number of a class"),
        ({"kind": "all"}, "kind: must be client, samples or class"),
        ({"client": "c1", "assurance": "total"}, "assurance: must be behaviour or deep"),
    ],
)
async def test_a_wrong_form_is_shown_again(
    server: Served, fields: dict[str, str], told: str
) -> None:
    found = with_certificate(server, Role.OFFICER, "dora")
    proof = (await found.get("/deletions/new")).proof
    answer = await found.post("/deletions/review", {"kind": "client", "proof": proof} | fields)
    assert answer.status == 400
    assert told in answer.text


async def test_a_refused_deletion_is_told_as_by_the_call(server: Served) -> None:
    found = with_certificate(server, Role.OFFICER, "dora")
    fields = await reviewed(found, client="nobody")
    answer = await found.post("/deletions", fields)
    stub = deletion_pb2_grpc.DeletionServiceStub(server.dial(Role.OFFICER, "dora"))
    scope = deletion_pb2.Scope(client="nobody")
    call = stub.Unlearn(deletion_pb2.UnlearnRequest(scope=scope), timeout=CALL)
    error = await refusal(call)
    assert answer.status == 404
    assert error.message.replace("'", "&#39;") in answer.text


async def test_the_rates_of_calls_hold_here_too(tmp_path: Path) -> None:
    async with served(tmp_path, console_address=ANY_PORT, requests_per_minute=3) as server:
        found = with_certificate(server, Role.AUDITOR)
        answers = [await found.get("/clients") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert "may call 3 times a minute at most" in answers[-1].text


async def test_markup_in_a_name_is_text(server: Served) -> None:
    await joined(server, HOSTILE, device=HOSTILE)
    answer = await with_certificate(server, Role.OPERATOR).get("/clients")
    assert HOSTILE not in answer.text
    assert answer.text.count("&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;") == 2


async def test_every_answer_binds_the_browser(server: Served) -> None:
    found = with_certificate(server, Role.AUDITOR)
    paths = ("/", "/clients", "/nowhere", "/deletions/new", "/static/console.css", "/sign-in")
    for path in paths:
        headers = (await found.get(path)).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        for text in re.findall(r'(?:src|href|action)="([^"]*)"', (await found.get(path)).text):
            assert text.startswith(("/", "#", "?")), f"{path} names another host: {text}"


async def test_what_is_asked_is_bounded(server: Served) -> None:
    found = with_certificate(server, Role.OFFICER, "dora")
    proof = (await found.get("/deletions/new")).proof
    large = {"proof": proof, "client": "x" * MOST_BYTES}
    assert (await found.post("/deletions/review", large)).status == 413
    many = {f"f{number}": "x" for number in range(100)} | {"proof": proof}
    assert (await found.post("/deletions/review", many)).status == 400
    header = await found.get("/", X_Long="x" * 40_000)
    assert header.status == 431
    assert (await found.get("/deletions/job-1")).status == 404
    assert (await found.get("/rounds?after=x")).status == 400


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["without an end", "whole"])
async def test_headers_that_are_too_large_are_told_so_however_they_come(
    server: Served, end: bytes
) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    place = ("127.0.0.1", server.console_port)
    reader, writer = await asyncio.open_connection(*place, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: console\r\nX-Long: " + b"x" * 40_000 + end)
    answer = await asyncio.wait_for(reader.readline(), PATIENCE)
    assert answer == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    writer.close()


async def test_a_silent_connection_is_cut_and_places_are_few(server: Served) -> None:
    place = ("127.0.0.1", server.console_port)
    with patch.object(listening, "MOST_CONNECTIONS", 2):
        silent = [await asyncio.open_connection(*place) for _ in range(3)]
        assert await asyncio.wait_for(silent[2][0].read(), PATIENCE) == b""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with patch.object(protocol, "CONNECTION_SECONDS", 0.1):
        reader, writer = await asyncio.open_connection(*place, ssl=context)
        with suppress(ConnectionError, ssl.SSLError):
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    for each in (writer, *(pair[1] for pair in silent)):
        each.close()


async def test_a_new_certificate_of_the_server_is_shown(server: Served) -> None:
    def shown() -> bytes:
        text = ssl.get_server_certificate(("127.0.0.1", server.console_port))
        return ssl.PEM_cert_to_DER_cert(text)

    before = await asyncio.to_thread(shown)
    authority = server.identities.authority
    authority.issue(server.identity.subject, server.identities.server, hosts=["127.0.0.1"])
    old = server.identity.own
    await eventually("the server reads its files", lambda: server.identity.own is not old)
    assert await asyncio.to_thread(shown) != before
    assert (await with_certificate(server, Role.AUDITOR).get("/")).status == 200


async def test_plaintext_serves_this_machine_alone(tmp_path: Path) -> None:
    async with served(tmp_path, insecure=True, console_address=ANY_PORT) as server:
        await joined(server, "c1")
        found = Browser(server.console_port)
        assert (await found.get("/clients")).status == 200
        rebound = await found.get("/clients", Host=f"evil.example:{server.console_port}")
        assert rebound.status == 403
        assert "c1" not in rebound.text
        fields = await reviewed(found, client="c1")
        assert (await found.post("/deletions", fields)).status == 303
        made = await identity_pb2_grpc.IdentityServiceStub(server.dial(None)).CreateConsoleLink(
            identity_pb2.CreateConsoleLinkRequest(), timeout=CALL
        )
        assert made.path == "/"


def test_plaintext_is_not_served_to_other_machines(tmp_path: Path) -> None:
    given = {"insecure": True, "task": "t.py:T", "state_dir": tmp_path}
    with pytest.raises(ValueError, match=r"--insecure serves loopback only and 0\.0\.0\.0:9466"):
        ServerSettings.model_validate(given | {"console_address": "0.0.0.0:9466"})


async def test_it_stops_with_the_server(tmp_path: Path) -> None:
    async with served(tmp_path, insecure=True, console_address=ANY_PORT) as server:
        found = Browser(server.console_port)
        assert (await found.get("/")).status == 200
    with pytest.raises(ConnectionRefusedError):
        await found.get("/")
    assert "fednot-console" not in {thread.name for thread in threading.enumerate()}


async def test_the_command_prints_a_link_that_signs_in(server: Served) -> None:
    identity = str(server.identities.of(Role.AUDITOR, "ada"))
    words = ["console", "--server", server.address, "--identity", identity]
    found = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert found.exit_code == 0, found.output
    start = f"https://127.0.0.1:{server.console_port}/sign-in#"
    (link,) = [line for line in found.stdout.splitlines() if line.startswith(start)]
    visitor = browser(server)
    assert (await visitor.post("/sign-in", {"code": link})).status == 303
    assert "auditor/ada" in (await visitor.get("/")).text


def test_a_page_waits_until_the_server_has_said_that_it_is_busy() -> None:
    script, _ = static_files()["console.js"]
    (patience,) = re.findall(rb"AbortSignal\.timeout\((\d+)\)", script)
    assert int(patience) / 1000 >= calls.ANSWER_SECONDS + 5


async def test_without_a_console_there_is_no_link(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        stub = identity_pb2_grpc.IdentityServiceStub(server.dial(Role.OFFICER, "dora"))
        call = stub.CreateConsoleLink(identity_pb2.CreateConsoleLinkRequest(), timeout=CALL)
        assert (await refusal(call)).reason is Reason.NO_CONSOLE
