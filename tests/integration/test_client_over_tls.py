"""The real client process over mutual TLS: who it is, new certificates in mid-round, refusals."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from support.handmade_authority import HandMadeAuthority, days_from_now
from support.played_server import TASK, WAIT, Stage, terminated, until
from support.ports import free_port

from fednot.errors import FednotError, Reason
from fednot.identity.folder import read_credentials
from fednot.v1 import federation_pb2 as pb

LINGERS = 'while context.config.get("linger")'
HELD = TASK.replace(LINGERS, f'{LINGERS} and not Path(__file__).with_name("go_on").exists()')


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, f"from pathlib import Path{HELD}")
    stage.secured()
    stage.issue()
    await stage.open()
    yield stage
    await stage.close()


async def seen(stage: Stage, call: str, serial: int) -> None:
    """Waits until a call has shown the certificate with this serial number."""
    await until(lambda: serial in stage.play.serials.get(call, []), asyncio.sleep)


def let_go(stage: Stage) -> None:
    """Lets the training end that lingers."""
    (stage.path / "go_on").touch()


async def test_its_name_is_its_certificates(stage: Stage) -> None:
    serial = stage.issue()
    process = await stage.client()
    assert (await stage.play.next(pb.JoinRequest)).client == "c7"
    await stage.play.train("w1")
    assert (await stage.play.next(tuple))[0].session.client == "c7"
    code, log = await terminated(process)
    assert code == 0, log
    assert "joined 127.0.0.1:" in log
    assert {s for calls in stage.play.serials.values() for s in calls} == {serial}


async def test_new_files_are_taken_up_in_the_middle_of_training(stage: Stage) -> None:
    play = stage.play
    process = await stage.client()
    await play.next(pb.JoinRequest)
    await play.train("w1", linger=1.0)
    await until(lambda: any(beat.work_id == "w1" for beat in play.beats), asyncio.sleep)
    new = stage.issue()
    await seen(stage, "Heartbeat", new)
    assert play.beats[-1].work_id == "w1"
    let_go(stage)
    assert (await play.next(tuple))[0].work_id == "w1"
    assert play.serials["UploadUpdate"] == [new]
    code, log = await terminated(process)
    assert code == 0, log
    assert len(play.sessions) == 1, log
    assert log.count("took up the new certificate of client c7") == 1
    assert "waiting for the server" not in log


async def test_a_server_that_trusts_others_makes_it_renew_in_the_middle_of_training(
    stage: Stage,
) -> None:
    play, old = stage.play, stage.issue()
    process = await stage.client()
    await play.next(pb.JoinRequest)
    await play.train("w1", linger=1.0)
    await until(lambda: any(beat.work_id == "w1" for beat in play.beats), asyncio.sleep)
    play.trust += HandMadeAuthority("the next authority").trust
    play.trust_digest = hashlib.sha256(play.trust).hexdigest()
    await seen(stage, "RenewCertificate", old)
    await until(lambda: play.serials["Heartbeat"][-1] != old, asyncio.sleep)
    let_go(stage)
    assert (await play.next(tuple))[0].work_id == "w1"
    code, log = await terminated(process)
    assert code == 0, log
    found = read_credentials(stage.identity)
    assert found.trust == play.trust
    assert play.serials["UploadUpdate"] == [found.certificate.serial_number]
    assert (len(play.sessions), play.serials["RenewCertificate"]) == (1, [old]), log


async def test_an_expired_certificate_is_told_once_and_mended_by_new_files(stage: Stage) -> None:
    play = stage.play
    process = await stage.client()
    await play.next(pb.JoinRequest)
    play.refuse = FednotError(Reason.CERTIFICATE_EXPIRED, "it expired on 2026-11-20")
    before = len(play.serials.get("PollWork", []))
    await until(lambda: len(play.serials.get("PollWork", [])) > before + 3, asyncio.sleep)
    new = stage.issue()
    await until(lambda: play.serials["PollWork"][-1] == new, asyncio.sleep)
    play.refuse = None
    await play.train("w1")
    assert (await play.next(tuple))[0].session.id == "s0"
    assert play.serials["UploadUpdate"] == [new]
    code, log = await terminated(process)
    assert code == 0, log
    assert log.count("it expired on 2026-11-20. Have a new one issued") == 1, log


async def test_a_revoked_certificate_ends_the_process(stage: Stage) -> None:
    process = await stage.client()
    await stage.play.next(pb.JoinRequest)
    stage.play.refuse = FednotError(Reason.CERTIFICATE_REVOKED, "number 7 was revoked")
    code, log = await process.ended()
    assert code == 3
    assert "number 7 was revoked. Ask whoever keeps the authority" in log


async def test_why_there_is_no_way_to_the_server_is_told_and_mended_by_new_files(
    stage: Stage,
) -> None:
    """The server is of another authority than the client's ca.pem says."""
    other = HandMadeAuthority("other authority")
    await stage.server.stop(None)
    stage.secured(other)
    await stage.open()
    port = free_port()
    process = await stage.client("--http-address", f"127.0.0.1:{port}")
    told = ""
    async with asyncio.timeout(WAIT):
        while "CN=other authority" not in told:
            told = await asyncio.to_thread(waiting_for, port)
            await asyncio.sleep(0.1)
    assert f"{stage.identity}/ca.pem trusts CN=fednot authority" in told
    stage.issue(trust=other.trust)
    assert (await stage.play.next(pb.JoinRequest)).client == "c7"
    await until(lambda: bool(stage.play.beats), asyncio.sleep)
    code, log = await terminated(process)
    assert code == 0, log
    assert log.count("no way to 127.0.0.1:") == 1, log
    assert log.count("reached the server at") == 1, log
    assert all(json.loads(line)["logger"] == "client" for line in log.splitlines()), log


def waiting_for(port: int) -> str:
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=WAIT) as answer:
            body = answer.read()
    except HTTPError as error:
        body = error.read()
    except OSError:
        return ""
    return str(json.loads(body)["detail"]["waiting_for"])


async def test_a_client_whose_certificate_has_expired_waits_for_another(stage: Stage) -> None:
    stage.issue(begins=days_from_now(-3), days=1)
    process = await stage.client()
    await process.said(f"{stage.identity}/cert.pem expired on {days_from_now(-2):%Y-%m-%d}")
    await process.said("waiting for the server at")
    assert stage.play.sessions == []
    stage.issue()
    await stage.play.next(pb.JoinRequest)
    code, log = await terminated(process)
    assert code == 0, log
