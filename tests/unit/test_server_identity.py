"""The server's own certificate: replaced, broken, renewed and warned of, while calls go on."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from support.handmade_authority import HandMadeAuthority, days_from_now
from support.identities import Identities, certificate_served, serial_of
from support.replay import MANIFEST
from support.served import CALL, LOOK_EVERY, Served, eventually, served

from fednot.identity import certificates
from fednot.identity.folder import read_credentials
from fednot.identity.locking import locked
from fednot.identity.subject import Role, Subject
from fednot.v1 import federation_pb2, federation_pb2_grpc, identity_pb2, identity_pb2_grpc
from fednot.wire import manifest_message
from server.app import health_details
from server.identity import ServerIdentity, open_identity
from server.monitor import Monitor

WHO = identity_pb2.GetIdentityRequest()
HOUR, DAY = 3600.0, 24 * 3600.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as found:
        yield found


async def whoami(channel: aio.Channel) -> str:
    stub = identity_pb2_grpc.IdentityServiceStub(channel)
    return (await stub.GetIdentity(WHO, timeout=CALL)).caller.name


async def join(channel: aio.Channel) -> tuple[federation_pb2_grpc.FederationServiceStub, str]:
    stub = federation_pb2_grpc.FederationServiceStub(channel)
    request = federation_pb2.JoinRequest(manifest=manifest_message(MANIFEST), num_train_examples=10)
    return stub, (await stub.Join(request, timeout=CALL)).session_id


async def test_a_rotation_ends_no_call_and_every_trust_can_dial(server: Served) -> None:
    """A poll waits across it; the old trust dials by the cross-signed chain, the new one too."""
    authority = server.identities.authority
    old = server.identities.of(Role.OFFICER, "old")
    client = server.dial(Role.CLIENT, "c1")
    stub, session = await join(client)
    poll = stub.PollWork(
        federation_pb2.PollWorkRequest(
            session=federation_pb2.Session(id=session), max_wait=Duration(seconds=25)
        ),
        timeout=CALL,
    )
    before = serial_of(server.identities.server)
    trust_before, digest_before = server.identity.trust, server.identity.trust_digest

    await asyncio.to_thread(authority.rotate)

    await eventually("the rotation is seen", lambda: server.identity.trust != trust_before)
    assert not poll.done()
    shown = await asyncio.to_thread(certificate_served, server.address, old)
    assert shown.serial_number == serial_of(server.identities.server) != before
    new = server.identities.issue(Role.OFFICER, "new")
    assert await whoami(server.dial_with(old)) == "old"
    assert await whoami(server.dial_with(new)) == "new"
    assert await whoami(client) == "c1"
    server.cohort.call_back()
    assert (await poll).WhichOneof("work") is None
    assert server.identity.trust_digest == _sha256(authority.trust_pem) != digest_before


async def test_heartbeats_tell_of_other_authorities(server: Served) -> None:
    stub, session = await join(server.dial(Role.CLIENT, "c1"))
    beat = federation_pb2.HeartbeatRequest(session=federation_pb2.Session(id=session))
    told = (await stub.Heartbeat(beat, timeout=CALL)).trust_digest
    assert told == _sha256((server.identities.of(Role.CLIENT, "c1") / "ca.pem").read_bytes())

    await asyncio.to_thread(server.identities.authority.rotate)

    await eventually("the rotation is seen", lambda: server.identity.trust_digest != told)
    told_now = (await stub.Heartbeat(beat, timeout=CALL)).trust_digest
    assert told_now == _sha256(server.identities.authority.trust_pem)


async def test_a_new_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    """Without an authority: somebody copies files into the folder."""
    async with served(tmp_path, signs=False) as server:
        ada = server.dial(Role.AUDITOR, "ada")
        assert await whoami(ada) == "ada"
        server.identities.by_hand().server(server.identities.server)
        wanted = serial_of(server.identities.server)
        await eventually("it is read", lambda: _serial(server.identity) == wanted)
        shown = await asyncio.to_thread(
            certificate_served, server.address, server.identities.of(Role.AUDITOR, "ada")
        )
        assert shown.serial_number == wanted
        assert await whoami(ada) == "ada"
        assert server.identity.trust_digest == ""


async def test_broken_files_leave_the_old_ones_in_force(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    folder = server.identities.server
    sound = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / "cert.pem").write_text("no certificate")
    assert health_details(server.federation, server.identity)["identity"] == "ok"
    await eventually("the fault is seen", lambda: server.identity.fault != "")
    told = health_details(server.federation, server.identity)["identity"]
    assert told.startswith("its replaced files cannot be used")
    assert f"{folder / 'cert.pem'} holds no certificate" in server.identity.fault
    assert await whoami(server.dial(Role.AUDITOR, "ada")) == "ada"
    await asyncio.sleep(5 * LOOK_EVERY)
    rows = [row for row in caplog.records if "the ones before stay" in row.message]
    assert len(rows) == 1, "it is told once"
    for path, content in sound.items():
        path.write_bytes(content)
    await eventually("it is sound again", lambda: server.identity.fault == "")
    assert await whoami(server.dial(Role.AUDITOR, "abe")) == "abe"


@pytest.mark.parametrize(
    ("replace", "told"),
    [
        (lambda maker, at: maker.server(at, begins=days_from_now(-3), days=1), "expired on"),
        (lambda maker, at: maker.identity(at, Role.CLIENT, "c7"), "is that of client c7"),
        (lambda maker, at: (at / "ca.pem").unlink(), "there is no ca.pem"),
        (
            lambda maker, at: (at / "key.pem").write_bytes(
                certificates.key_pem(certificates.new_key())
            ),
            "is not the key of",
        ),
        (lambda maker, at: (at.parent / "revoked.pem").unlink(), "cannot be read"),
        (lambda maker, at: (at.parent / "revoked.pem").write_text("?"), "cannot be used"),
        (lambda maker, at: (at.parent / "revoked.pem").write_text(""), "cannot be used"),
    ],
)
def test_what_cannot_be_used_is_not_taken_over(
    tmp_path: Path, replace: Callable[[HandMadeAuthority, Path], object], told: str
) -> None:
    maker, folder = HandMadeAuthority(), tmp_path / "identity"
    maker.server(folder)
    lists = tmp_path / "revoked.pem"
    sound = revoking(maker)
    lists.write_bytes(sound)
    identity = open_identity(folder, lists, None)
    before = _serial(identity)
    replace(maker, folder)
    identity._refresh()
    assert identity.fault == "", "a writer may be half way at the first look"
    identity._refresh()
    assert told in identity.fault
    assert _serial(identity) == before
    maker.server(folder)
    lists.write_bytes(sound)
    identity._refresh()
    assert identity.fault == ""
    assert _serial(identity) != before


async def test_the_server_renews_itself_at_two_thirds_of_the_lifetime(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        maker, folder = server.identities.by_hand(), server.identities.server
        maker.server(folder, ["127.0.0.1", "other.example"], begins=days_from_now(-19), days=30)
        early = serial_of(folder)
        await eventually("it is read", lambda: _serial(server.identity) == early)
        await asyncio.sleep(5 * LOOK_EVERY)
        assert serial_of(folder) == early, "two thirds of 30 days are 20, of which 19 are over"

        maker.server(folder, ["127.0.0.1", "other.example"], begins=days_from_now(-21), days=30)
        due = serial_of(folder)
        await eventually("it is renewed", lambda: _serial(server.identity) not in (early, due))
        leaf = read_credentials(folder).certificate
        assert certificates.hosts_of(leaf) == ("other.example", "127.0.0.1")
        assert certificates.subject_of(leaf) == Subject(Role.SERVER, "server")
        assert await whoami(server.dial(Role.AUDITOR, "ada")) == "ada"


def test_an_attempt_to_renew_that_fails_is_told_and_made_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    identities = Identities(tmp_path)
    identities.by_hand().server(identities.server, begins=days_from_now(-21), days=30)
    identity = ServerIdentity(identities.server, None, identities.authority, clock=clock)
    keys = identities.authority.directory / "ca" / "key.pem"
    key = keys.read_bytes()
    keys.write_text("broken")
    before = serial_of(identities.server)
    identity._look_after()
    assert "the certificate cannot be renewed" in caplog.text
    keys.write_bytes(key)
    identity._look_after()
    assert serial_of(identities.server) == before, "a minute is waited"
    clock.now += 61
    identity._look_after()
    assert serial_of(identities.server) != before


def test_an_identity_elsewhere_follows_the_authority(tmp_path: Path) -> None:
    """With --authority and --identity both, a rotation reaches the folder that is used."""
    identities, elsewhere = Identities(tmp_path), tmp_path / "elsewhere"
    subject = Subject(Role.SERVER, "server")
    identities.authority.issue(subject, elsewhere, hosts=["127.0.0.1"])
    identity = open_identity(elsewhere, None, identities.authority.directory)
    identities.authority.rotate()
    identity._look_after()
    identity._refresh()
    assert identity.trust == identities.authority.trust_pem
    assert identity.fault == ""


def test_a_revoked_client_is_let_in_by_no_rotation_of_an_identity_elsewhere(tmp_path: Path) -> None:
    """Retiring drops the old list at once, while the folder may still trust the old authority."""
    identities, elsewhere = Identities(tmp_path), tmp_path / "elsewhere"
    authority, server = identities.authority, Subject(Role.SERVER, "server")
    authority.issue(server, elsewhere, hosts=["127.0.0.1"])
    bad = (identities.of(Role.CLIENT, "c1") / "cert.pem").read_bytes()
    authority.revoke(Subject(Role.CLIENT, "c1"))
    identity = open_identity(elsewhere, None, authority.directory)
    changes = [authority.rotate, lambda: authority.retire(force=True)]
    for change in (*changes, *changes):
        change()
        for look in (identity._refresh, identity._refresh, identity._look_after, identity._refresh):
            look()
            assert not identity.holds(bad)
        assert identity.trust == authority.trust_pem, "it follows without a pause"
        assert identity.fault == ""


def test_a_server_starts_though_its_folder_trusts_what_was_retired(tmp_path: Path) -> None:
    identities, elsewhere = Identities(tmp_path), tmp_path / "elsewhere"
    authority = identities.authority
    authority.issue(Subject(Role.SERVER, "server"), elsewhere, hosts=["127.0.0.1"])
    authority.rotate()
    authority.retire(force=True)
    identity = open_identity(elsewhere, None, authority.directory)
    assert identity.trust == authority.trust_pem


@pytest.mark.parametrize("broken", ["cert.pem", "key.pem", "ca.pem", "dates"])
def test_revocations_are_taken_whatever_the_other_files_are_worth(
    tmp_path: Path, broken: str
) -> None:
    clock = Clock()
    maker, folder, lists = HandMadeAuthority(), tmp_path / "identity", tmp_path / "revoked.pem"
    maker.server(folder, days=2)
    lists.write_bytes(revoking(maker))
    client = maker.identity(tmp_path / "c1", name="c1", days=20)
    pem = certificates.pem_of([client.certificate])
    identity = ServerIdentity(folder, lists, None, clock=clock)
    if broken == "dates":
        clock.now += 3 * DAY
    else:
        (folder / broken).write_text("broken")
    identity._refresh()
    assert identity.holds(pem)
    lists.write_bytes(revoking(HandMadeAuthority(), client.certificate.serial_number))
    identity._refresh()
    assert identity.holds(pem), "this list is another authority's"
    lists.write_bytes(revoking(maker, client.certificate.serial_number))
    identity._refresh()
    assert not identity.holds(pem)
    lists.write_bytes(b"")
    identity._refresh()
    assert not identity.holds(pem)


def test_revocations_are_taken_though_the_authoritys_trust_cannot_be_read(tmp_path: Path) -> None:
    identities = Identities(tmp_path)
    authority = identities.authority
    bad = (identities.of(Role.CLIENT, "c1") / "cert.pem").read_bytes()
    identity = open_identity(identities.server, None, authority.directory)
    authority.revoke(Subject(Role.CLIENT, "c1"))
    (authority.directory / "trust.pem").unlink()
    identity._refresh()
    assert not identity.holds(bad)
    identity._refresh()
    assert "trust.pem" in identity.fault


async def test_revocations_are_taken_while_the_authority_is_busy(tmp_path: Path) -> None:
    """The server's own renewal waits for the lock; nothing else does."""
    async with served(tmp_path) as server:
        maker, lists = server.identities.by_hand(), server.identities.authority.revocations
        client = maker.identity(tmp_path / "c1", name="c1").certificate
        with locked(server.identities.authority.directory):
            maker.server(server.identities.server, begins=days_from_now(-21), days=30)
            due = serial_of(server.identities.server)
            await eventually("it is read", lambda: _serial(server.identity) == due)
            await asyncio.sleep(3 * LOOK_EVERY)
            lists.write_bytes(revoking(maker, client.serial_number))
            pem = certificates.pem_of([client])
            await eventually("revoked", lambda: not server.identity.holds(pem), seconds=3)


@pytest.mark.parametrize(
    ("days", "margin"),
    [(365.0, 30.0), (30.0, 10.0)],
    ids=["30 days before the end", "in the last third of a short lifetime"],
)
def test_without_an_authority_the_end_is_warned_of_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: float, margin: float
) -> None:
    clock = Clock()
    maker, folder = HandMadeAuthority(days=900), tmp_path / "identity"
    maker.server(folder, days=days)
    identity = ServerIdentity(folder, None, None, clock=clock)
    clock.now += (days - margin) * DAY - HOUR
    told = []
    for hours in (0, 2, 1, 23):
        clock.now += hours * HOUR
        identity._look_after()
        told.append(len([row for row in caplog.records if row.levelno == logging.WARNING]))
    assert told == [0, 1, 1, 2]
    assert f"the server's certificate in {folder} ends on" in caplog.text
    assert "`fednot certs issue server`" in caplog.text


def test_the_end_of_the_authority_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    maker, folder = HandMadeAuthority(days=100), tmp_path / "identity"
    maker.server(folder, days=99)
    identity = ServerIdentity(folder, None, None, clock=clock)
    clock.now += 71 * DAY
    identity._look_after()
    assert "the authority ends on" in caplog.text
    assert "`fednot certs rotate`" in caplog.text


def test_when_certificates_end_is_known(tmp_path: Path) -> None:
    maker, folder = HandMadeAuthority(days=100), tmp_path / "identity"
    leaf = maker.server(folder, days=50).certificate
    identity = open_identity(folder, None, None)
    assert identity.certificate_expiries() == {
        "server": leaf.not_valid_after_utc.timestamp(),
        "authority": maker.certificate.not_valid_after_utc.timestamp(),
    }


async def test_prometheus_sees_when_certificates_end(server: Served, tmp_path: Path) -> None:
    """Of the connected clients the one whose certificate ends first; 0 before there is any."""
    monitor = Monitor(server.federation, server.cohort, server.identity)
    await monitor._refresh()
    leaf = read_credentials(server.identities.server).certificate
    assert _expiry(server, "server") == leaf.not_valid_after_utc.timestamp()
    assert _expiry(server, "authority") > _expiry(server, "server")
    assert _expiry(server, "clients") == 0
    maker = server.identities.by_hand()
    for name, days in (("c1", 20.0), ("c2", 5.0), ("c3", 9.0)):
        maker.identity(tmp_path / name, Role.CLIENT, name, days=days)
        await join(server.dial_with(tmp_path / name))
    await monitor._refresh()
    first = read_credentials(tmp_path / "c2").certificate.not_valid_after_utc
    assert _expiry(server, "clients") == first.timestamp()


async def test_a_handshake_takes_the_files_of_its_moment_or_fails_alone(server: Served) -> None:
    """A certificate of an authority that was retired meanwhile does not get through TLS."""
    old = server.identities.of(Role.OFFICER, "old")
    trust = server.identity.trust
    await asyncio.to_thread(server.identities.authority.rotate)
    await asyncio.to_thread(lambda: server.identities.authority.retire(force=True))
    await eventually(
        "the old one is gone",
        lambda: server.identity.trust == server.identities.authority.trust_pem != trust,
    )
    with pytest.raises(aio.AioRpcError) as caught:
        await whoami(server.dial_with(old))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await whoami(server.dial(Role.OFFICER, "new")) == "new"


def revoking(maker: HandMadeAuthority, *serials: int) -> bytes:
    """The authority's list of what it revoked."""
    rows = [(serial, certificates.now()) for serial in serials]
    return certificates.revocation_list(rows, maker.certificate, maker.key)


class Clock:
    """A clock that a test moves; it begins now."""

    def __init__(self) -> None:
        self.now = certificates.now().timestamp()

    def __call__(self) -> float:
        return self.now


def _expiry(server: Served, certificate: str) -> float:
    name = f'fednot_certificate_expiry_timestamp_seconds{{certificate="{certificate}"}} '
    text = server.federation.metrics.render()[0].decode()
    (row,) = (line for line in text.splitlines() if line.startswith(name))
    return float(row.removeprefix(name))


def _serial(identity: ServerIdentity) -> int:
    return identity._present.credentials.certificate.serial_number


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
