"""The guard and certificates: each way in which one is wrong, on connections that live."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.handmade_authority import HandMadeAuthority, days_from_now
from support.replay import MANIFEST
from support.served import CALL, Served, eventually, refusal, served

from fednot.errors import Reason
from fednot.identity import certificates
from fednot.identity.folder import read_credentials, write_credentials
from fednot.identity.subject import Role, Subject
from fednot.v1 import (
    deletion_pb2,
    deletion_pb2_grpc,
    federation_pb2,
    federation_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
)
from fednot.wire import manifest_message
from server.cohorts.cohort import NoAnswer, WorkKind, WorkPlan
from server.monitor import Monitor
from server.records import RoundPhase

WHO = identity_pb2.GetIdentityRequest()
DAY = 24 * 3600.0


@pytest.fixture(autouse=True)
def quick_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks for sessions whose certificate has ended more often than every two seconds."""
    monkeypatch.setattr("server.monitor.TICK", 0.1)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as found:
        yield found


def identity_of(channel: aio.Channel) -> identity_pb2_grpc.IdentityServiceAsyncStub:
    return identity_pb2_grpc.IdentityServiceStub(channel)


async def who(channel: aio.Channel) -> str:
    return (await identity_of(channel).GetIdentity(WHO, timeout=CALL)).caller.name


def odd_identity(maker: HandMadeAuthority, folder: Path, *names: str) -> Path:
    """A client certificate of an authority with whatever URIs are given."""
    key = certificates.new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(maker.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(certificates.now() - dt.timedelta(minutes=1))
        .not_valid_after(days_from_now(1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    if names:
        uris = [x509.UniformResourceIdentifier(each) for each in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=False)
    leaf = builder.sign(maker.key, hashes.SHA256())
    chain, private = certificates.pem_of([leaf]), certificates.key_pem(key)
    write_credentials(folder, chain=chain, trust=maker.trust, key=private)
    return folder


async def test_a_certificate_that_ends_while_its_connection_lives(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, folder = server.identities.by_hand(), tmp_path / "short"
    maker.identity(folder, Role.OFFICER, "dora", days=1)
    ends = read_credentials(folder).certificate.not_valid_after_utc
    channel = server.dial_with(folder)
    assert await who(channel) == "dora"
    monkeypatch.setattr(server.identity, "_clock", lambda: time.time() + 2 * DAY)
    told = await refusal(identity_of(channel).GetIdentity(WHO, timeout=CALL))
    assert told.reason is Reason.CERTIFICATE_EXPIRED
    assert f"officer dora expired on {ends:%Y-%m-%d}" in told.message
    assert await server.audited() == [
        ("officer", "IdentityService.GetIdentity", "refused", "CERTIFICATE_EXPIRED")
    ]


async def test_a_certificate_that_is_revoked_while_its_connection_lives(server: Served) -> None:
    channel = server.dial(Role.OFFICER, "dora")
    assert await who(channel) == "dora"
    await revoked(server, Subject(Role.OFFICER, "dora"))
    for _ in range(2):
        told = await refusal(identity_of(channel).GetIdentity(WHO, timeout=CALL))
        assert told.reason is Reason.CERTIFICATE_REVOKED
        assert "officer dora" in told.message
    assert await who(server.dial(Role.OFFICER, "otto")) == "otto"
    row = ("officer", "IdentityService.GetIdentity", "refused", "CERTIFICATE_REVOKED")
    assert await server.audited() == [row, row], "the first, and the one that repeated it"


async def test_a_certificate_whose_authority_is_retired_while_its_connection_lives(
    server: Served,
) -> None:
    authority, trust = server.identities.authority, server.identity.trust
    channel = server.dial(Role.OFFICER, "dora")
    assert await who(channel) == "dora"
    await asyncio.to_thread(authority.rotate)
    await eventually("both are trusted", lambda: server.identity.trust != trust)
    assert await who(channel) == "dora"
    both = server.identity.trust
    await asyncio.to_thread(lambda: authority.retire(force=True))
    await eventually("one is left", lambda: server.identity.trust != both)
    told = await refusal(identity_of(channel).GetIdentity(WHO, timeout=CALL))
    assert told.reason is Reason.UNTRUSTED_CERTIFICATE
    assert "officer dora was issued by" in told.message
    assert await server.audited() == [
        ("", "IdentityService.GetIdentity", "refused", "UNTRUSTED_CERTIFICATE")
    ], "an authority that is not trusted tells nothing of who it was"


@pytest.mark.parametrize(
    ("uris", "reason", "told"),
    [
        ((), Reason.INVALID_CERTIFICATE, "it names no identity"),
        (("https://fednot/officer/dora",), Reason.INVALID_CERTIFICATE, "is not spiffe://"),
        (("spiffe://fednot/chief/dora",), Reason.INVALID_CERTIFICATE, "has no known role"),
        (
            ("spiffe://fednot/officer/dora", "spiffe://fednot/operator/dora"),
            Reason.INVALID_CERTIFICATE,
            "must name one identity",
        ),
        (("spiffe://elsewhere/officer/dora",), Reason.INVALID_CERTIFICATE, "'elsewhere'"),
        (("spiffe://fednot/server/dora",), Reason.WRONG_ROLE, "server/dora may not call"),
    ],
)
async def test_a_certificate_of_the_authority_that_names_nobody_of_ours(
    server: Served, tmp_path: Path, uris: tuple[str, ...], reason: Reason, told: str
) -> None:
    folder = odd_identity(server.identities.by_hand(), tmp_path / "odd", *uris)
    found = await refusal(identity_of(server.dial_with(folder)).GetIdentity(WHO, timeout=CALL))
    assert found.reason is reason
    assert told in found.message


async def test_what_tls_itself_refuses_reaches_no_servicer(server: Served, tmp_path: Path) -> None:
    maker, trust = server.identities.by_hand(), server.identities.authority.trust_pem
    stranger = HandMadeAuthority("another authority")
    folders = [tmp_path / name for name in ("stranger", "expired", "future")]
    stranger.identity(folders[0], Role.OPERATOR, "olga", trust=trust)
    maker.identity(folders[1], Role.OPERATOR, "olga", begins=days_from_now(-3), days=1)
    maker.identity(folders[2], Role.OPERATOR, "olga", begins=days_from_now(1), days=2)
    for folder in folders:
        with pytest.raises(aio.AioRpcError) as caught:
            await who(server.dial_with(folder))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, folder
    nobody = aio.secure_channel(server.address, grpc.ssl_channel_credentials(trust))
    with pytest.raises(aio.AioRpcError) as caught:
        await who(nobody)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await nobody.close()
    assert await server.audited() == []


async def test_the_messages_of_a_stream_are_taken_while_the_certificate_holds(
    server: Served,
) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.dial(Role.AUDITOR, "ada"))
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo(timeout=CALL)
    await call.write(ask)
    assert (await call.read()).list_services_response.service
    await revoked(server, Subject(Role.AUDITOR, "ada"))
    await call.write(ask)
    told = await refusal(call.read())
    assert told.reason is Reason.CERTIFICATE_REVOKED


async def test_an_upload_is_taken_while_the_certificate_holds(server: Served) -> None:
    stub, session = await joined(server, "c1")
    call = stub.UploadUpdate(timeout=CALL)
    await call.wait_for_connection()
    await revoked(server, Subject(Role.CLIENT, "c1"))
    mine = federation_pb2.Session(id=session)
    header = federation_pb2.UpdateHeader(session=mine, work_id="w")
    await call.write(federation_pb2.UploadUpdateRequest(header=header))
    told = await refusal(call)
    assert told.reason is Reason.CERTIFICATE_REVOKED


async def test_a_stream_sends_nothing_once_the_certificate_is_revoked(server: Served) -> None:
    """Dora watches a deletion; after her revocation the next change is not told to her."""
    await joined(server, "c1")
    deletions = [
        deletion_pb2_grpc.DeletionServiceStub(server.dial(Role.OFFICER, name))
        for name in ("dora", "otto")
    ]
    scope = deletion_pb2.Scope(client="c1")
    asked = deletion_pb2.UnlearnRequest(request_id="r1", scope=scope)
    job = (await deletions[1].Unlearn(asked, timeout=CALL)).deletion.job.id
    watch = deletions[0].WatchDeletion(deletion_pb2.WatchDeletionRequest(job_id=job), timeout=CALL)
    assert (await watch.read()).deletion.job.id == job
    await revoked(server, Subject(Role.OFFICER, "dora"))
    await deletions[1].CancelDeletion(
        deletion_pb2.CancelDeletionRequest(request_id="r1"), timeout=CALL
    )
    told = await refusal(watch.read())
    assert told.reason is Reason.CERTIFICATE_REVOKED


async def test_a_call_that_lasts_is_not_answered_once_the_certificate_is_revoked(
    server: Served,
) -> None:
    """The poll waits across the revocation; the work that comes then is not told. Who has a newer
    certificate asks again.
    """
    stub, session = await joined(server, "c1")
    poll = stub.PollWork(poll_of(session), timeout=CALL)
    await eventually("the poll is admitted", lambda: started(server, "PollWork") == 1)
    await revoked(server, Subject(Role.CLIENT, "c1"))
    async with aclosing(server.cohort.work(plan(server, 2.0))) as answers:
        await anext(answers)
        told = await refusal(poll)
        assert told.reason is Reason.SERVER_BUSY
        assert "was revoked; send it again" in told.message
        told = await refusal(stub.PollWork(poll_of(session), timeout=CALL))
        assert told.reason is Reason.CERTIFICATE_REVOKED
        server.identities.issue(Role.CLIENT, "c1")
        renewed = federation_pb2_grpc.FederationServiceStub(server.dial(Role.CLIENT, "c1"))
        assert (await renewed.PollWork(poll_of(session), timeout=CALL)).train.work_id


async def test_a_round_does_not_wait_for_a_client_that_is_revoked(server: Served) -> None:
    monitor = Monitor(server.federation, server.cohort, server.identity)
    watching = asyncio.create_task(monitor.run())
    stub, session = await joined(server, "c1")
    async with aclosing(server.cohort.work(plan(server, 60.0))) as answers:
        first = asyncio.ensure_future(anext(answers))
        assert (await stub.PollWork(poll_of(session), timeout=CALL)).train.work_id
        await revoked(server, Subject(Role.CLIENT, "c1"))
        async with asyncio.timeout(30):
            answer = await first
    watching.cancel()
    assert isinstance(answer, NoAnswer)
    assert answer.reason == "its certificate no longer holds"
    assert server.cohort.connected() == frozenset()


async def test_a_session_ends_with_its_certificate(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = Monitor(server.federation, server.cohort, server.identity)
    watching = asyncio.create_task(monitor.run())
    maker = server.identities.by_hand()
    maker.identity(tmp_path / "c1", Role.CLIENT, "c1", days=1)
    stub = federation_pb2_grpc.FederationServiceStub(server.dial_with(tmp_path / "c1"))
    await stub.Join(join_request(), timeout=CALL)
    assert server.cohort.connected() == {"c1"}
    monkeypatch.setattr(server.identity, "_clock", lambda: time.time() + 2 * DAY)
    await eventually("its session is closed", lambda: not server.cohort.connected())
    watching.cancel()


async def test_a_client_has_the_name_of_its_certificate(server: Served) -> None:
    stub, session = await joined(server, "c1")
    for claimed in ("", "c1"):
        mine = federation_pb2.Session(client=claimed, id=session)
        await stub.Heartbeat(federation_pb2.HeartbeatRequest(session=mine), timeout=CALL)
    as_c2 = federation_pb2.Session(client="c2", id=session)
    header = federation_pb2.UpdateHeader(session=as_c2, work_id="w")
    parts = [federation_pb2.UploadUpdateRequest(header=header)]
    for call in (
        stub.Join(join_request(client="c2"), timeout=CALL),
        stub.PollWork(federation_pb2.PollWorkRequest(session=as_c2), timeout=CALL),
        stub.DownloadModel(federation_pb2.DownloadModelRequest(session=as_c2), timeout=CALL).read(),
        stub.UploadUpdate(iter(parts), timeout=CALL),
        stub.ReportEvaluation(federation_pb2.ReportEvaluationRequest(session=as_c2), timeout=CALL),
        stub.ReportFailure(federation_pb2.ReportFailureRequest(session=as_c2), timeout=CALL),
        stub.Heartbeat(federation_pb2.HeartbeatRequest(session=as_c2), timeout=CALL),
        stub.Leave(federation_pb2.LeaveRequest(session=as_c2), timeout=CALL),
    ):
        told = await refusal(call)
        assert told.reason is Reason.NOT_YOUR_NAME
        assert "client/c1" in told.message
    assert server.cohort.connected() == {"c1"}


async def test_a_session_is_the_clients_own(server: Served) -> None:
    _, session_of_c1 = await joined(server, "c1")
    stub, _ = await joined(server, "c2")
    stolen = federation_pb2.Session(id=session_of_c1)
    told = await refusal(stub.Leave(federation_pb2.LeaveRequest(session=stolen), timeout=CALL))
    assert told.reason is Reason.UNKNOWN_SESSION
    assert server.cohort.connected() == {"c1", "c2"}


async def test_a_session_knows_when_the_certificate_ends_that_it_shows_now(
    server: Served, tmp_path: Path
) -> None:
    maker = server.identities.by_hand()
    first, second = (
        maker.identity(tmp_path / f"{days}", Role.CLIENT, "c1", days=days).certificate
        for days in (5, 20)
    )
    stub = federation_pb2_grpc.FederationServiceStub(server.dial_with(tmp_path / "5"))
    session = (await stub.Join(join_request(), timeout=CALL)).session_id
    held = server.cohort.sessions()["c1"]
    assert held.certificate_expires_at == first.not_valid_after_utc.timestamp()
    renewed = federation_pb2_grpc.FederationServiceStub(server.dial_with(tmp_path / "20"))
    beat = federation_pb2.HeartbeatRequest(session=federation_pb2.Session(id=session))
    await renewed.Heartbeat(beat, timeout=CALL)
    assert held.certificate_expires_at == second.not_valid_after_utc.timestamp()


async def test_over_plaintext_names_are_what_clients_say(tmp_path: Path) -> None:
    async with served(tmp_path, insecure=True) as server:
        stub = federation_pb2_grpc.FederationServiceStub(server.dial(None))
        answer = await stub.Join(join_request(client="c9"), timeout=CALL)
        assert answer.client == "c9"
        assert server.cohort.sessions()["c9"].certificate_expires_at is None
        told = await refusal(stub.Join(join_request(), timeout=CALL))
        assert told.reason is Reason.INVALID_CLIENT_NAME


def started(server: Served, method: str) -> float:
    """How many calls of a method the server has begun to serve."""
    lines = server.federation.metrics.render()[0].decode().splitlines()
    counts = (line for line in lines if line.startswith("grpc_server_started_total{"))
    return sum(float(line.split()[-1]) for line in counts if f'grpc_method="{method}"' in line)


def poll_of(session: str) -> federation_pb2.PollWorkRequest:
    return federation_pb2.PollWorkRequest(
        session=federation_pb2.Session(id=session), max_wait=Duration(seconds=8)
    )


def plan(server: Served, deadline: float) -> WorkPlan:
    model = server.federation.model
    return WorkPlan(
        WorkKind.TRAIN, 1, RoundPhase.TRAINING, model.current, model.flat, ("c1",), deadline
    )


def join_request(client: str = "") -> federation_pb2.JoinRequest:
    return federation_pb2.JoinRequest(
        client=client, manifest=manifest_message(MANIFEST), num_train_examples=10
    )


async def joined(
    server: Served, name: str
) -> tuple[federation_pb2_grpc.FederationServiceAsyncStub, str]:
    stub = federation_pb2_grpc.FederationServiceStub(server.dial(Role.CLIENT, name))
    answer = await stub.Join(join_request(), timeout=CALL)
    assert answer.client == name
    return stub, answer.session_id


async def revoked(server: Served, subject: Subject) -> None:
    """Revokes a subject and waits until the server knows it."""
    shown = (server.identities.of(subject.role, subject.name) / "cert.pem").read_bytes()
    await asyncio.to_thread(lambda: server.identities.authority.revoke(subject))
    await eventually("the revocation is read", lambda: not server.identity.holds(shown))
