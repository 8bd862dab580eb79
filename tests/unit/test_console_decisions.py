"""An officer decides in the console: approvals, cancelling, holds, and the choices of the form."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.browser import Answer, Browser
from support.served import ANY_PORT, CALL, Served, served
from support.state import BY_TEST

from fednot.identity.subject import Role
from fednot.v1 import deletion_pb2, deletion_pb2_grpc
from server.records import ClientRecord
from server.state import client_rows


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, console_address=ANY_PORT, require_approval=True) as found:
        for name in ("c1", "c2"):
            now = time.time()
            record = ClientRecord(name, now, now, 7, 3, "cpu")
            await found.federation.database.write(
                BY_TEST, lambda c, record=record: client_rows.record_join(c, record)
            )
        yield found


def browser(server: Served, role: Role, name: str) -> Browser:
    trust = server.identities.authority.directory / "server" / "ca.pem"
    return Browser(server.console_port, trust, server.identities.of(role, name))


async def asked(server: Served, by: str = "dora", **more: object) -> deletion_pb2.Deletion:
    stub = deletion_pb2_grpc.DeletionServiceStub(server.dial(Role.OFFICER, by))
    scope = deletion_pb2.Scope(client="c1")
    request = deletion_pb2.UnlearnRequest(scope=scope, request_id="r1", **more)
    return (await stub.Unlearn(request, timeout=CALL)).deletion


async def found_by(server: Served, job: str) -> deletion_pb2.Deletion:
    stub = deletion_pb2_grpc.DeletionServiceStub(server.dial(Role.OFFICER, "dora"))
    request = deletion_pb2.GetDeletionRequest(job_id=job)
    return (await stub.GetDeletion(request, timeout=CALL)).deletion


async def press(found: Browser, path: str, action: str) -> Answer:
    """Opens a page and sends its form to `action`."""
    page = await found.get(path)
    forms = re.findall(r'<form method="post" action="([^"]*)"(.*?)</form>', page.text, re.DOTALL)
    fields = {at: dict(re.findall(r'name="(\w+)" value="([^"]*)"', text)) for at, text in forms}
    assert action in fields, page.text
    return await found.post(action, fields[action])


async def test_a_second_officer_approves_what_waits(server: Served) -> None:
    made = await asked(server, layers="all-but-last")
    emil = browser(server, Role.OFFICER, "emil")
    job = await emil.get(f"/deletions/{made.job.id}")
    (page,) = re.findall(r'<a class="button" href="(/approvals/[^"]*)">Approve or refuse', job.text)
    shown = await emil.get(page)
    assert "of client c1" in shown.text
    assert "layers all-but-last" in shown.text
    assert '<a href="/approvals" aria-current="true">' in shown.text
    assert "officer/dora" in shown.text
    assert "older versions are destroyed for good" in shown.text
    assert (await found_by(server, made.job.id)).job.phase == deletion_pb2.JOB_PHASE_AWAITING
    answer = await press(emil, page, "/approvals/approve")
    assert (answer.status, answer.headers["location"]) == (303, page)
    assert (await found_by(server, made.job.id)).job.phase == deletion_pb2.JOB_PHASE_QUEUED
    after = await emil.get(page)
    assert "approved" in after.text
    assert "by officer/emil" in after.text
    assert "<form" not in after.text.partition("<main")[2]
    assert "approved" in (await emil.get("/approvals")).text
    assert ("officer", "ApprovalService.Approve", "accepted", "") in await server.audited()


async def test_a_second_officer_refuses_and_the_deletion_is_cancelled(server: Served) -> None:
    made = await asked(server)
    emil = browser(server, Role.OFFICER, "emil")
    answer = await press(emil, f"/approvals/{made.approval_id}", "/approvals/refuse")
    assert answer.status == 303
    assert (await found_by(server, made.job.id)).job.phase == deletion_pb2.JOB_PHASE_CANCELLED


async def test_nobody_approves_what_they_asked_for(server: Served) -> None:
    made = await asked(server)
    dora = browser(server, Role.OFFICER, "dora")
    page = await dora.get(f"/approvals/{made.approval_id}")
    assert "another officer approves it" in page.text
    assert 'action="/approvals/approve"' not in page.text
    sent = {"proof": page.proof, "id": made.approval_id}
    answer = await dora.post("/approvals/approve", sent)
    assert answer.status == 403
    assert "nobody approves what they asked for themselves" in answer.text
    assert (await found_by(server, made.job.id)).job.phase == deletion_pb2.JOB_PHASE_AWAITING


async def test_who_only_watches_sees_approvals_and_decides_nothing(server: Served) -> None:
    made = await asked(server)
    olga = browser(server, Role.OPERATOR, "olga")
    page = await olga.get(f"/approvals/{made.approval_id}")
    assert page.status == 200
    assert "/approvals/approve" not in page.text
    job = await olga.get(f"/deletions/{made.job.id}")
    assert "Approve or refuse" not in job.text
    assert "Cancel the deletion" not in job.text
    assert (await olga.get(f"/deletions/{made.job.id}/cancel")).status == 403
    client = browser(server, Role.CLIENT, "c1")
    assert (await client.get("/approvals")).status == 403
    assert (await olga.get("/approvals/approval-99")).status == 404


async def test_a_decision_from_another_site_does_nothing(server: Served) -> None:
    made = await asked(server)
    emil = browser(server, Role.OFFICER, "emil")
    for action in ("/approvals/approve", "/approvals/refuse", "/deletions/cancel"):
        assert (await emil.post(action, {"id": made.approval_id})).status == 403
    assert (await found_by(server, made.job.id)).job.phase == deletion_pb2.JOB_PHASE_AWAITING


async def test_a_waiting_deletion_is_cancelled_after_a_question(server: Served) -> None:
    made = await asked(server)
    dora = browser(server, Role.OFFICER, "dora")
    assert "Cancel the deletion" in (await dora.get(f"/deletions/{made.job.id}")).text
    path = f"/deletions/{made.job.id}/cancel"
    assert "takes part in rounds again" in (await dora.get(path)).text
    answer = await press(dora, path, "/deletions/cancel")
    assert (answer.status, answer.headers["location"]) == (303, f"/deletions/{made.job.id}")
    page = await dora.get(f"/deletions/{made.job.id}")
    assert "Cancel the deletion" not in page.text
    assert (await press(dora, path, "/deletions/cancel")).status == 409


async def test_a_hold_is_asked_for_shown_and_lifted(server: Served) -> None:
    dora = browser(server, Role.OFFICER, "dora")
    given = {
        "kind": "client",
        "client": "c2",
        "priority": "-7",
        "not_after": "30d",
        "retain": "yes",
    }
    proof = (await dora.get("/deletions/new")).proof
    review = await dora.post("/deletions/review", given | {"proof": proof})
    assert "until an officer lifts the legal hold" in review.text
    assert "priority -7" in review.text
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', review.text))
    assert fields["not_after"].startswith("20")
    back = re.findall(r'href="(/deletions/new[^"]*)"', review.text)[0].replace("&amp;", "&")
    form = await dora.get(back)
    assert 'name="retain" value="yes" checked' in form.text
    assert 'value="-7"' in form.text
    both = [await dora.post("/deletions", fields) for _ in range(2)]
    assert [answer.status for answer in both] == [303, 303]
    assert both[0].headers["location"] == both[1].headers["location"]
    made = await found_by(server, both[0].headers["location"].rpartition("/")[2])
    assert (made.priority, made.job.retain) == (-7, True)
    assert 29 * 86_400 < made.not_after.seconds - time.time() <= 30 * 86_400
    page = await dora.get(f"/deletions/{made.job.id}")
    assert "released to nobody" in page.text
    path = f"/deletions/{made.job.id}/lift-hold"
    assert (await press(dora, path, "/deletions/lift-hold")).status == 303
    after = await dora.get(f"/deletions/{made.job.id}")
    assert "Lift the legal hold" not in after.text
    assert (await found_by(server, made.job.id)).job.HasField("hold_lifted_at")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"priority": "1001"}, "priority: must be from -1000 to 1000"),
        ({"priority": "high"}, "priority: must be from -1000 to 1000"),
        ({"not_after": "soon"}, "is no time; write 2027-01-31"),
    ],
)
async def test_a_wrong_choice_is_told(server: Served, fields: dict[str, str], told: str) -> None:
    dora = browser(server, Role.OFFICER, "dora")
    given = {"kind": "client", "client": "c1", "proof": (await dora.get("/deletions/new")).proof}
    answer = await dora.post("/deletions/review", given | fields)
    assert answer.status == 400
    assert told in answer.text
