"""Tokens, enrolment and renewal, over real sockets."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from sqlalchemy import update
from support.served import CALL, Served, refusal, served
from support.state import BY_TEST

from fednot.errors import FednotError, Reason
from fednot.identity import certificates, locking
from fednot.identity.certificates import PrivateKey
from fednot.identity.folder import write_credentials
from fednot.identity.subject import Role, Subject
from fednot.identity.token import Token
from fednot.v1 import identity_pb2, identity_pb2_grpc
from server.services.enrolment import ENROLMENTS_AT_ONCE
from server.services.signing import MOST_REQUEST_BYTES, MOST_SIGNED, Signing
from server.state import schema

C1 = Subject(Role.CLIENT, "c1")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as found:
        yield found


def request_for(subject: Subject, key: PrivateKey | None = None) -> bytes:
    return certificates.request_pem(certificates.request(subject, key or certificates.new_key()))


def identity_of(channel: aio.Channel) -> identity_pb2_grpc.IdentityServiceAsyncStub:
    return identity_pb2_grpc.IdentityServiceStub(channel)


async def token_for(server: Served, client: str = "c1", **valid_for: int) -> Token:
    request = identity_pb2.CreateTokenRequest(client=client)
    if valid_for:
        request.valid_for.CopyFrom(Duration(**valid_for))
    stub = identity_of(server.dial(Role.OPERATOR, "olga"))
    return Token.parse((await stub.CreateToken(request, timeout=CALL)).token)


async def enrol(
    server: Served, secret: str, request: bytes, trust: bytes | None = None
) -> identity_pb2.SignedCertificate:
    stub = identity_pb2_grpc.EnrolmentServiceStub(server.dial_enrolment(trust))
    message = identity_pb2.EnrollRequest(secret=secret, certificate_request=request)
    return (await stub.Enroll(message, timeout=CALL)).certificate


async def test_a_machine_enrols_by_its_token_and_is_who_the_token_says(
    server: Served, tmp_path: Path
) -> None:
    token = await token_for(server)
    assert (token.client, token.domain) == ("c1", "fednot")
    key = certificates.new_key()
    signed = await enrol(server, token.secret, request_for(C1, key), token.trust)
    folder = tmp_path / "enrolled"
    write_credentials(folder, chain=signed.chain, trust=signed.trust, key=certificates.key_pem(key))
    answer = await identity_of(server.dial_with(folder)).GetIdentity(
        identity_pb2.GetIdentityRequest(), timeout=CALL
    )
    assert (answer.caller.role, answer.caller.name) == (identity_pb2.ROLE_CLIENT, "c1")
    assert answer.expires_at == signed.expires_at
    assert await server.audited() == [
        ("operator", "IdentityService.CreateToken", "accepted", ""),
        ("", "EnrolmentService.Enroll", "accepted", ""),
    ]


async def test_a_token_is_used_once_and_a_lost_reply_costs_nothing(server: Served) -> None:
    token, key = await token_for(server), certificates.new_key()
    first = await enrol(server, token.secret, request_for(C1, key))
    second = await enrol(server, token.secret, request_for(C1, key))
    assert first.chain != second.chain
    told = await refusal(enrol(server, token.secret, request_for(C1)))
    assert told.reason is Reason.TOKEN_USED
    assert await subject_of_last_entry(server) == await pseudonym(server, "client/c1")
    assert [row[2:] for row in await server.audited()] == [
        ("accepted", ""),
        ("accepted", ""),
        ("refused", "TOKEN_USED"),
    ], "a repeat is not told again"


async def test_of_two_who_use_a_token_at_once_one_gets_a_certificate(server: Served) -> None:
    token = await token_for(server)
    calls = [enrol(server, token.secret, request_for(C1)) for _ in range(6)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(each, identity_pb2.SignedCertificate) for each in found) == 1


async def test_a_request_for_another_name_does_not_use_the_token_up(server: Served) -> None:
    token = await token_for(server)
    for wrong in (
        request_for(Subject(Role.CLIENT, "c2")),
        request_for(Subject(Role.OPERATOR, "c1")),
        request_for(Subject(Role.CLIENT, "c1", "elsewhere")),
        b"nothing",
        b"",
        b"x" * (MOST_REQUEST_BYTES + 1),
    ):
        told = await refusal(enrol(server, token.secret, wrong))
        assert told.reason is Reason.INVALID_CERTIFICATE_REQUEST, wrong
    assert (await enrol(server, token.secret, request_for(C1))).chain


async def test_secrets_that_were_guessed_share_an_entry(server: Served) -> None:
    for secret in ("", "x", "y" * 43, "z" * 10_000):
        told = await refusal(enrol(server, secret, request_for(C1)))
        assert told.reason is Reason.INVALID_TOKEN
    row = ("", "EnrolmentService.Enroll", "refused", "INVALID_TOKEN")
    assert await server.audited() == [row, row], "the first, and one for its repeats"


async def test_a_message_that_is_too_large_is_not_read(server: Served) -> None:
    with pytest.raises(aio.AioRpcError, match="larger than max"):
        await enrol(server, "x", b"x" * 70_000)


async def test_a_token_ends(server: Served) -> None:
    token = await token_for(server, seconds=60)
    past = time.time() - 1
    await server.federation.database.write(
        BY_TEST, lambda c: c.execute(update(schema.enrolment_tokens).values(expires_at=past))
    )
    told = await refusal(enrol(server, token.secret, request_for(C1)))
    assert told.reason is Reason.TOKEN_EXPIRED
    assert "client c1" in told.message


@pytest.mark.parametrize(
    ("valid_for", "seconds"),
    [({}, 3600.0), ({"seconds": 1}, 1.0), ({"seconds": 30 * 86400}, 30 * 86400.0)],
)
async def test_a_token_is_good_for_so_long(
    server: Served, valid_for: dict[str, int], seconds: float
) -> None:
    await token_for(server, **valid_for)
    row = await server.federation.database.read(
        lambda c: c.execute(schema.enrolment_tokens.select()).one()
    )
    assert row.expires_at - row.created_at == pytest.approx(seconds, abs=1e-3)
    assert row.expires_at - seconds == pytest.approx(time.time(), abs=10)


@pytest.mark.parametrize("valid_for", [{"seconds": 0}, {"seconds": -1}, {"seconds": 2_592_001}])
async def test_a_token_is_good_for_no_other_time(server: Served, valid_for: dict[str, int]) -> None:
    told = await refusal(token_for(server, **valid_for))
    assert told.reason is Reason.INVALID_REQUEST
    assert told.message.startswith("valid_for: ")


@pytest.mark.parametrize("name", ["", "C1", "c 1", "../c1", "x" * 64])
async def test_a_token_is_for_a_name_that_a_client_can_have(server: Served, name: str) -> None:
    assert (await refusal(token_for(server, name))).reason is Reason.INVALID_CLIENT_NAME


async def test_the_server_keeps_no_secret(server: Served, tmp_path: Path) -> None:
    token = await token_for(server)
    await enrol(server, token.secret, request_for(C1))
    kept = stored(tmp_path)
    assert token.secret.encode() not in kept
    assert token.secret_digest.encode() in kept


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("state.sqlite3*"))


async def test_a_certificate_is_renewed_for_the_same_name_only(
    server: Served, tmp_path: Path
) -> None:
    subject, key = Subject(Role.OFFICER, "dora"), certificates.new_key()
    stub = identity_of(server.dial(Role.OFFICER, "dora"))
    request = identity_pb2.RenewCertificateRequest(certificate_request=request_for(subject, key))
    signed = (await stub.RenewCertificate(request, timeout=CALL)).certificate
    folder = tmp_path / "renewed"
    write_credentials(folder, chain=signed.chain, trust=signed.trust, key=certificates.key_pem(key))
    who = await identity_of(server.dial_with(folder)).GetIdentity(
        identity_pb2.GetIdentityRequest(), timeout=CALL
    )
    assert (who.caller.role, who.caller.name) == (identity_pb2.ROLE_OFFICER, "dora")
    for other in (
        Subject(Role.OFFICER, "otto"),
        Subject(Role.OPERATOR, "dora"),
        Subject(Role.SERVER, "dora"),
    ):
        wrong = identity_pb2.RenewCertificateRequest(certificate_request=request_for(other))
        told = await refusal(stub.RenewCertificate(wrong, timeout=CALL))
        assert told.reason is Reason.INVALID_CERTIFICATE_REQUEST
        assert subject.uri in told.message
    assert [row[1:3] for row in await server.audited()][:2] == [
        ("IdentityService.RenewCertificate", "accepted"),
        ("IdentityService.RenewCertificate", "refused"),
    ]


async def test_without_its_entry_in_the_audit_no_certificate_is_handed_out(
    server: Served,
) -> None:
    """What was signed for it stays in the authority's list, and nobody has it."""
    stub, write = identity_of(server.dial(Role.CLIENT, "c1")), server.federation.database.write
    request = identity_pb2.RenewCertificateRequest(certificate_request=request_for(C1))
    fault = "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT raise(ABORT, 'full'); END"
    before = len(server.identities.authority.issued())
    await write(BY_TEST, lambda c: c.exec_driver_sql(fault))

    told = await refusal(stub.RenewCertificate(request, timeout=CALL))

    assert told.reason is Reason.INTERNAL
    assert len(server.identities.authority.issued()) == before + 1
    await write(BY_TEST, lambda c: c.exec_driver_sql("DROP TRIGGER full"))
    assert await server.audited() == []
    assert (await stub.RenewCertificate(request, timeout=CALL)).certificate.chain
    renewed = ("client", "IdentityService.RenewCertificate", "accepted", "")
    assert await server.audited() == [renewed]


async def test_what_a_rotated_authority_signs_is_trusted_at_once(
    server: Served, tmp_path: Path
) -> None:
    """The server reads its files again before it hands such a certificate out."""
    stub, key = identity_of(server.dial(Role.CLIENT, "c1")), certificates.new_key()
    await asyncio.to_thread(server.identities.authority.rotate)
    request = identity_pb2.RenewCertificateRequest(certificate_request=request_for(C1, key))
    signed = (await stub.RenewCertificate(request, timeout=CALL)).certificate
    assert server.identity.trust == signed.trust
    folder = tmp_path / "renewed"
    write_credentials(folder, chain=signed.chain, trust=signed.trust, key=certificates.key_pem(key))
    answer = await identity_of(server.dial_with(folder)).GetIdentity(
        identity_pb2.GetIdentityRequest(), timeout=CALL
    )
    assert answer.caller.name == "c1"


async def test_a_server_without_an_authority_signs_nothing(tmp_path: Path) -> None:
    for more in ({"signs": False}, {"insecure": True}):
        folder = tmp_path / next(iter(more))
        folder.mkdir()
        async with served(folder, **more) as server:
            plaintext = "insecure" in more
            stub = identity_of(server.dial(None if plaintext else Role.OPERATOR, "olga"))
            who = await stub.GetIdentity(identity_pb2.GetIdentityRequest(), timeout=CALL)
            assert (who.can_renew, who.HasField("caller")) == (False, not plaintext)
            for call in (
                stub.CreateToken(identity_pb2.CreateTokenRequest(client="c1"), timeout=CALL),
                stub.RenewCertificate(identity_pb2.RenewCertificateRequest(), timeout=CALL),
            ):
                assert (await refusal(call)).reason is Reason.NO_AUTHORITY


async def test_the_caller_is_told_who_it_is(server: Served) -> None:
    stub = identity_of(server.dial(Role.AUDITOR, "ada"))
    answer = await stub.GetIdentity(identity_pb2.GetIdentityRequest(), timeout=CALL)
    assert (answer.caller.role, answer.caller.name) == (identity_pb2.ROLE_AUDITOR, "ada")
    assert (answer.domain, answer.can_renew) == ("fednot", True)
    assert answer.now.ToMicroseconds() / 1e6 == pytest.approx(time.time(), abs=10)
    assert answer.expires_at.seconds > time.time() + 300 * 86400
    assert "/fednot.v1.AuditService/ListAuditEntries" in answer.permitted
    assert "/fednot.v1.OperatorService/StartTraining" not in answer.permitted


async def test_one_name_cannot_have_certificates_signed_without_end(server: Served) -> None:
    now = 0.0
    signing = Signing(server.identity, clock=lambda: now)
    for number in range(MOST_SIGNED + 5):
        wrong = number % 3 == 0
        with suppress(FednotError), signing.turn(C1):
            await signing.sign(b"wrong" if wrong else request_for(C1), C1)
    assert len(server.identities.authority.issued()) == MOST_SIGNED + 1, "with the server's"
    with pytest.raises(FednotError) as caught, signing.turn(C1):
        pass
    assert (caught.value.reason, caught.value.retry_after) == (Reason.SERVER_BUSY, 3600.0)
    now = 3600.0
    with signing.turn(C1):
        await signing.sign(request_for(C1), C1)


async def revoke(server: Served, subject: Subject) -> None:
    """Revokes a subject; the server reads of it within a second."""
    await asyncio.to_thread(lambda: server.identities.authority.revoke(subject))


async def test_the_key_of_a_revoked_certificate_enrols_no_more(server: Served) -> None:
    token, key = await token_for(server), certificates.new_key()
    assert (await enrol(server, token.secret, request_for(C1, key))).chain
    await revoke(server, C1)
    told = await refusal(enrol(server, token.secret, request_for(C1, key)))
    assert told.reason is Reason.CERTIFICATE_REVOKED
    newer = await token_for(server)
    told = await refusal(enrol(server, newer.secret, request_for(C1, key)))
    assert told.reason is Reason.CERTIFICATE_REVOKED
    assert (await refusal(enrol(server, newer.secret, request_for(C1)))).reason is Reason.TOKEN_USED


async def test_a_token_from_before_a_revocation_is_worth_nothing(server: Served) -> None:
    token = await token_for(server)
    server.identities.of(Role.CLIENT, "c1")
    await asyncio.sleep(1.1)
    await revoke(server, C1)
    told = await refusal(enrol(server, token.secret, request_for(C1)))
    assert told.reason is Reason.CERTIFICATE_REVOKED
    await asyncio.sleep(1.1)
    newer = await token_for(server)
    assert (await enrol(server, newer.secret, request_for(C1))).chain


async def test_who_makes_tokens_does_not_become_a_client_that_is_there(server: Served) -> None:
    token = await token_for(server)
    server.identities.of(Role.CLIENT, "c1")
    for call in (token_for(server), enrol(server, token.secret, request_for(C1))):
        told = await refusal(call)
        assert told.reason is Reason.CLIENT_HAS_CERTIFICATE
        assert "client c1 has a certificate already" in told.message
    assert ("", "EnrolmentService.Enroll", "refused", "CLIENT_HAS_CERTIFICATE") in (
        await server.audited()
    )
    assert (await token_for(server, "c2")).client == "c2"


async def test_a_newer_token_takes_the_place_of_the_older(server: Served) -> None:
    older, newer = await token_for(server), await token_for(server)
    told = await refusal(enrol(server, older.secret, request_for(C1)))
    assert told.reason is Reason.INVALID_TOKEN
    assert (await enrol(server, newer.secret, request_for(C1))).chain


async def test_what_is_revoked_is_not_renewed_in_the_moment_after(server: Served) -> None:
    """The guard knows within a second; the authority knows at once."""
    stub = identity_of(server.dial(Role.CLIENT, "c1"))
    await stub.GetIdentity(identity_pb2.GetIdentityRequest(), timeout=CALL)
    await revoke(server, C1)
    request = identity_pb2.RenewCertificateRequest(certificate_request=request_for(C1))
    told = await refusal(stub.RenewCertificate(request, timeout=CALL))
    assert told.reason is Reason.CERTIFICATE_REVOKED
    assert server.identities.authority.usable_certificate(C1) is None


async def test_a_busy_authority_holds_up_nothing_and_costs_no_turn(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = identity_of(server.dial(Role.CLIENT, "c1"))
    request = identity_pb2.RenewCertificateRequest(certificate_request=request_for(C1))

    async def renewed() -> FednotError:
        return await refusal(stub.RenewCertificate(request, timeout=CALL))

    monkeypatch.setattr(locking, "LOCK_SECONDS", 60.0)
    with locking.locked(server.identities.authority.directory):
        renewal = asyncio.ensure_future(stub.RenewCertificate(request, timeout=CALL))
        await asyncio.sleep(0.1)
        await server.identity.refresh()
        assert not renewal.done(), "revocations are read meanwhile"
    assert (await renewal).certificate.chain
    monkeypatch.setattr(locking, "LOCK_SECONDS", 0.3)
    with locking.locked(server.identities.authority.directory):
        waiting = [asyncio.create_task(renewed()) for _ in range(MOST_SIGNED + 10)]
        told = [await each for each in waiting]
        assert {each.reason for each in told} == {Reason.SERVER_BUSY}
        assert all(each.retry_after for each in told)
        assert sum("many ask" in each.message for each in told) >= 5, "the queue is short"
    assert (await stub.RenewCertificate(request, timeout=CALL)).certificate.chain


async def test_calls_without_a_message_keep_nobody_out(server: Served) -> None:
    """On more connections than enrolments at once, each with as many calls as it may have: one."""
    channels = [server.dial_enrolment() for _ in range(ENROLMENTS_AT_ONCE + 4)]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    method = "/fednot.v1.EnrolmentService/Enroll"
    calls = [channel.stream_unary(method)(timeout=30) for channel in channels]
    assert len(calls) > ENROLMENTS_AT_ONCE
    await asyncio.gather(*(call.wait_for_connection() for call in calls))
    told = await refusal(enrol(server, "x", request_for(C1)))
    assert told.reason is Reason.INVALID_TOKEN
    assert not any(call.done() for call in calls)
    for call in calls:
        call.cancel()


async def test_connections_of_strangers_that_do_nothing_are_closed(server: Served) -> None:
    """Idle after the handshake where no certificate is asked for; before it on both ports."""
    enrolment, main = server.enrolment_address, server.address
    silent = [await asyncio.open_connection(*at.split(":")) for at in (enrolment, main)]
    tls = ssl.create_default_context(cadata=server.identities.authority.trust_pem.decode())
    tls.set_alpn_protocols(["h2"])
    idle = await asyncio.open_connection(*enrolment.split(":"), ssl=tls)
    idle[1].write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*(reader.read() for reader, _ in (*silent, idle)))
    finally:
        for _, writer in (*silent, idle):
            writer.close()


async def subject_of_last_entry(server: Served) -> str:
    await server.audited()
    rows = await server.federation.database.read(
        lambda c: c.execute(schema.audit.select().order_by(schema.audit.c.sequence)).all()
    )
    return str(rows[-1].subject)


async def pseudonym(server: Served, name: str) -> str:
    query = schema.pseudonyms.select().where(schema.pseudonyms.c.name == name)
    row = await server.federation.database.read(lambda c: c.execute(query).one())
    return str(row.pseudonym)
