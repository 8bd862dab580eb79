"""New files taken up, certificates renewed in time, and what is said about it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc import aio
from prometheus_client import CollectorRegistry
from support.handmade_authority import HandMadeAuthority, days_from_now

from client import renewal as module
from client.dialler import Dialler
from client.metrics import ClientMetrics
from client.renewal import IdentityKeeper
from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.identity.folder import WatchedFolder, read_credentials
from fednot.identity.replacement import REPLACEMENT
from fednot.identity.subject import Subject
from fednot.rpc_errors import to_status
from fednot.v1 import identity_pb2 as pb
from fednot.v1.identity_pb2_grpc import (
    IdentityServiceServicer,
    add_IdentityServiceServicer_to_server,
)

EXPIRY = "fednot_client_certificate_expiry_timestamp_seconds"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Signer(IdentityServiceServicer):
    """Signs what it is asked to, as the server of a hand-made authority; or refuses."""

    def __init__(self, authority: HandMadeAuthority) -> None:
        self.authority = authority
        self.trust = authority.trust
        self.refusal: FednotError | None = None
        self.callers: list[int] = []
        self.subject: Subject | None = None

    async def RenewCertificate(self, request: Any, context: Any) -> pb.RenewCertificateResponse:
        [pem] = context.auth_context()["x509_pem_cert"]
        self.callers.append(x509.load_pem_x509_certificate(pem).serial_number)
        if self.refusal is not None:
            details = to_status(self.refusal).SerializeToString()
            trailing = (("grpc-status-details-bin", details),)
            code = grpc.StatusCode[self.refusal.code]
            await context.abort(code, self.refusal.message, trailing_metadata=trailing)
        subject, key = certificates.read_request(request.certificate_request)
        signer = self.authority
        leaf = certificates.leaf(
            self.subject or subject, key, signer.certificate, signer.key, days=9
        )
        chain = certificates.pem_of([leaf])
        return pb.RenewCertificateResponse(
            certificate=pb.SignedCertificate(chain=chain, trust=self.trust)
        )


@dataclass
class Stage:
    """A keeper of the identity in `folder`, and the server that it renews with."""

    authority: HandMadeAuthority
    signer: Signer
    server: aio.Server
    address: str
    folder: Path
    clock: Clock = field(default_factory=Clock)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def issue(self, **more: Any) -> int:
        """Writes the client's identity; gives its serial number."""
        return self.authority.identity(self.folder, **more).certificate.serial_number

    def keeper(self) -> IdentityKeeper:
        watched = WatchedFolder(self.folder)
        self.dialler = Dialler(self.address, watched.current)
        return IdentityKeeper(watched, self.dialler, ClientMetrics(self.registry), self.clock)

    @property
    def serial(self) -> int:
        return read_credentials(self.folder).certificate.serial_number


@pytest.fixture
async def stage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Stage]:
    caplog.set_level(logging.INFO)
    authority = HandMadeAuthority(days=400)
    own = authority.server(tmp_path / "server")
    tls = grpc.ssl_server_credentials(
        [(own.private_key, own.chain)], own.trust, require_client_auth=True
    )
    server, signer = aio.server(), Signer(authority)
    add_IdentityServiceServicer_to_server(signer, server)
    address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', tls)}"
    await server.start()
    found = Stage(authority, signer, server, address, tmp_path / "identity")
    yield found
    await found.dialler.close()
    await server.stop(None)


async def test_a_certificate_is_renewed_at_two_thirds_of_its_lifetime(stage: Stage) -> None:
    fresh = stage.issue(begins=days_from_now(-5.9), days=9)
    keeper = stage.keeper()
    await keeper.look()
    assert (stage.serial, stage.signer.callers) == (fresh, [])
    old = stage.issue(begins=days_from_now(-6.1), days=9)
    key = (stage.folder / "key.pem").read_bytes()
    await keeper.look()
    assert stage.signer.callers == [old]
    assert stage.serial != old
    assert (stage.folder / "key.pem").read_bytes() != key
    assert not (stage.folder / REPLACEMENT).exists()
    ends = read_credentials(stage.folder).certificate.not_valid_after_utc.timestamp()
    assert stage.registry.get_sample_value(EXPIRY) == ends
    new = stage.serial
    await keeper.look()
    assert stage.signer.callers == [old]
    keeper.told_trust("of another authority")
    await keeper.look()
    assert stage.signer.callers == [old, new]


async def test_a_server_that_trusts_others_makes_it_renew_at_once(stage: Stage) -> None:
    old = stage.issue()
    keeper = stage.keeper()
    keeper.told_trust(hashlib.sha256(stage.signer.trust).hexdigest())
    keeper.told_trust("")
    await keeper.look()
    assert stage.signer.callers == []
    stage.signer.trust += HandMadeAuthority("the next").trust
    for _ in range(3):
        keeper.told_trust(hashlib.sha256(stage.signer.trust).hexdigest())
        await keeper.look()
    assert stage.signer.callers == [old]
    assert (stage.folder / "ca.pem").read_bytes() == stage.signer.trust


async def test_a_server_without_an_authority_is_told_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Attempts come after 30 s, then 60 s, and at the most an hour apart."""
    old = stage.issue(begins=days_from_now(-6.1), days=9)
    stage.signer.refusal = FednotError(Reason.NO_AUTHORITY, "this server signs nothing")
    keeper = stage.keeper()
    counts = []
    for seconds in (0, 29, 2, 59, 2):
        stage.clock.now += seconds
        await keeper.look()
        counts.append(len(stage.signer.callers))
    assert counts == [1, 1, 2, 2, 3]
    for _ in range(10):
        stage.clock.now += 3601
        await keeper.look()
    assert len(stage.signer.callers) == 13
    assert stage.serial == old
    assert caplog.text.count("was not renewed: this server signs nothing") == 1
    stage.signer.refusal = None
    stage.clock.now += 3601
    await keeper.look()
    assert stage.serial != old


async def test_a_folder_that_cannot_be_written_is_told_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    old = stage.issue(begins=days_from_now(-6.1), days=9)
    (stage.folder / REPLACEMENT).mkdir()
    keeper = stage.keeper()
    for _ in range(3):
        await keeper.look()
        stage.clock.now += 3601
    assert stage.serial == old
    assert len(stage.signer.callers) == 3
    assert caplog.text.count(f"was not renewed: {stage.folder} cannot be written") == 1


async def test_an_answer_for_somebody_else_is_not_taken(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    old = stage.issue(begins=days_from_now(-6.1), days=9)
    stage.signer.subject = Subject(read_credentials(stage.folder).subject.role, "c9")
    await stage.keeper().look()
    assert stage.serial == old
    assert "it is that of spiffe://fednot/client/c9, not of spiffe://fednot/client/c7" in (
        caplog.text
    )


async def test_an_unreachable_server_is_asked_again(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.issue(begins=days_from_now(-6.1), days=9)
    keeper = stage.keeper()
    await stage.server.stop(None)
    await keeper.look()
    assert f"was not renewed: {stage.address} did not answer" in caplog.text


async def test_new_files_are_taken_up(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.issue()
    keeper = stage.keeper()
    await keeper.look()
    new = stage.issue(days=8)
    await keeper.look()
    assert caplog.text.count("took up the new certificate of client c7, which ends ") == 1
    assert keeper.current.certificate.serial_number == new
    keeper.told_trust("another")
    await keeper.look()
    assert stage.signer.callers == [new]


async def test_another_clients_files_are_not_taken_up(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    old = stage.issue()
    keeper = stage.keeper()
    stage.issue(name="c8")
    for _ in range(3):
        await keeper.look()
    assert keeper.current.certificate.serial_number == old
    assert caplog.text.count("now holds the identity of spiffe://fednot/client/c8") == 1


async def test_files_that_do_not_fit_are_told_once_they_stay_so(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever replaces them writes the key first and the certificate a moment later."""
    old = stage.issue()
    keeper = stage.keeper()
    (stage.folder / "key.pem").write_bytes(certificates.key_pem(certificates.new_key()))
    await keeper.look()
    stage.clock.now += 4
    await keeper.look()
    assert "is not the key of" not in caplog.text
    stage.clock.now += 2
    for _ in range(3):
        await keeper.look()
    assert caplog.text.count("is not the key of") == 1
    assert keeper.current.certificate.serial_number == old
    new = stage.issue()
    await keeper.look()
    assert keeper.current.certificate.serial_number == new


async def test_the_coming_end_is_told_once_a_day(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.issue(begins=days_from_now(-6.1), days=9)
    stage.signer.refusal = FednotError(Reason.NO_AUTHORITY, "this server signs nothing")
    keeper = stage.keeper()
    for seconds in (0, 3600, 3600, module.WARNING_PAUSE):
        stage.clock.now += seconds
        await keeper.look()
    end = keeper.current.certificate.not_valid_after_utc
    told = f"client c7 in {stage.folder}/cert.pem ends {end:%Y-%m-%d}"
    assert caplog.text.count(told) == 2
    assert "in 2 days (not renewed: this server signs nothing" in caplog.text


async def test_a_renewed_certificate_is_not_warned_of(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.issue(begins=days_from_now(-6.1), days=9)
    await stage.keeper().look()
    assert "took up the new certificate" in caplog.text
    assert "cert.pem ends" not in caplog.text
