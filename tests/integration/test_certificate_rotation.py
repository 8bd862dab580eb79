"""Certificates and the authority itself replaced in the middle of rounds: nothing is lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from support.federation import CALL, OFFICER, OPERATOR, LocalFederation, eventually, refusal
from support.forked import FEDNOT, Command
from support.identities import HOSTS, Identities, Stubs, certificate_served, serial_of
from support.replay import MANIFEST, assert_close, mean_of_clients, stored

from fednot.errors import FednotError, Reason
from fednot.identity.certificates import issued_by
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role
from fednot.rpc_errors import from_rpc_error
from fednot.v1 import identity_pb2, operator_pb2

INDICES = (0, 1, 2)
CLIENTS = [f"c{index}" for index in INDICES]
ENDS = 'fednot_certificate_expiry_timestamp_seconds{certificate="%s"}'
SENT = 'fednot_transfer_bytes_total{direction="sent"}'


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Three clients, of which c1 and c2 can be held while they train; c0 then polls for work."""
    flags = ("--task-arg", "trace=no")
    with LocalFederation(tmp_path_factory.mktemp("rotation"), server_flags=flags) as found:
        found.start_server()
        for index in INDICES:
            found.start_client(index, held=index > 0)
        found.release()
        found.await_connected(len(INDICES))
        yield found


@dataclass
class HeldRound:
    """A round in flight: c0's update is in, c1 and c2 have the model and are held in training."""

    federation: LocalFederation
    number: int
    pids: dict[str, int]
    joins: int

    @classmethod
    def begin(cls, federation: LocalFederation) -> HeldRound:
        federation.hold.touch()
        sent = federation.metrics()[SENT]
        federation.start_training(1)
        eventually("c0's update is in", lambda: federation.status().round.updates == 1)
        eventually(
            "everybody has the model",
            lambda: federation.metrics()[SENT] == sent + len(CLIENTS) * MANIFEST.nbytes,
        )
        number = federation.status().round.round
        pids = {name: federation.pid(name) for name in CLIENTS}
        return cls(federation, number, pids, _joins(federation))

    def end(self) -> operator_pb2.Round:
        """Lets it end, and checks that nothing of it was lost."""
        federation = self.federation
        assert federation.status().round.round == self.number, "it is still the same round"
        federation.release()
        run = federation.await_run()
        row = federation.rounds()[-1]
        assert run.state == operator_pb2.RUN_STATE_COMPLETED, federation.log("server")
        assert (row.number, row.outcome) == (self.number, operator_pb2.ROUND_OUTCOME_COMPLETED)
        assert (list(row.cohort), list(row.missing)) == (CLIENTS, [])
        assert all(federation.runs(name) for name in ("server", *CLIENTS))
        assert {name: federation.pid(name) for name in CLIENTS} == self.pids
        assert _joins(federation) == self.joins, "sessions outlive their connections"
        base, result = stored(federation, row.base_version), stored(federation, row.result_version)
        assert_close(result, mean_of_clients(base, row, INDICES))
        return row


def _joins(federation: LocalFederation) -> int:
    return federation.whole_log("server").count(" joined: fednot")


def test_clients_certificates_are_replaced_while_one_polls_and_one_trains(
    federation: LocalFederation,
) -> None:
    """The old ones are revoked in the same round, so that it can only end with the new ones."""
    held = HeldRound.begin(federation)
    for name in ("c0", "c1"):
        folder = federation.identity_of(Role.CLIENT, name)
        before = shutil.copytree(folder, federation.folder / f"{name}-before")
        federation.identities.issue(Role.CLIENT, name, days=200)
        assert serial_of(folder) != serial_of(before)
        eventually(f"{name} shows it", lambda name=name: _is_shown(federation, name))
        federation.identities.authority.revoke(f"{serial_of(before):x}")
        eventually(f"{name}'s old one is revoked", lambda old=before: _is_refused(federation, old))

    held.end()
    ends = _end(federation.identity_of(Role.CLIENT, "c0"))
    eventually("the metric says so", lambda: federation.metrics()[ENDS % "clients"] == ends)


def _end(identity: Path) -> float:
    return read_credentials(identity).certificate.not_valid_after_utc.timestamp()


def _is_shown(federation: LocalFederation, name: str) -> bool:
    """Whether a client makes its calls with what its folder holds now."""
    shown = federation.client_info(name).certificate_expires_at
    return shown.ToSeconds() == _end(federation.identity_of(Role.CLIENT, name))


def _is_refused(federation: LocalFederation, identity: Path) -> bool:
    stubs = Stubs.of(federation.address, identity)
    try:
        stubs.identity.GetIdentity(identity_pb2.GetIdentityRequest(), timeout=CALL)
    except grpc.RpcError as error:
        refused = from_rpc_error(error)
        return refused is not None and refused.reason is Reason.CERTIFICATE_REVOKED
    finally:
        stubs.channel.close()
    return False


def test_the_servers_certificate_is_replaced_in_mid_round(federation: LocalFederation) -> None:
    server = federation.identities.server
    held = HeldRound.begin(federation)
    old = _served(federation)
    assert old.serial_number == serial_of(server)

    subject = read_credentials(server).subject
    new = federation.identities.authority.issue(subject, server, hosts=HOSTS, days=100).certificate

    eventually("the server shows it", lambda: _served(federation) == new)
    assert federation.status().clients_connected == len(INDICES), "open connections go on"
    held.end()
    ends = new.not_valid_after_utc.timestamp()
    assert ends < old.not_valid_after_utc.timestamp()
    eventually("the metric says so", lambda: federation.metrics()[ENDS % "server"] == ends)


def test_the_authority_is_rotated_and_the_old_one_retired(federation: LocalFederation) -> None:
    """Clients learn of the new authority by their heartbeats and renew by themselves."""
    identities, request = federation.identities, operator_pb2.GetStatusRequest()
    first = _authority_of(identities)
    kept = federation.stubs_for(Role.AUDITOR, "of-the-first")
    assert kept.operator.GetStatus(request, timeout=CALL)

    held = HeldRound.begin(federation)
    _certs("rotate", federation)
    second = _authority_of(identities)
    assert second.subject != first.subject or second.serial_number != first.serial_number
    for name in CLIENTS:
        eventually(f"{name} renews", lambda name=name: _issued_by(federation, name, second))
    eventually("the server shows it", lambda: issued_by(_served(federation), second))
    kept = federation.reconnect(Role.AUDITOR, "of-the-first")
    assert kept.operator.GetStatus(request, timeout=CALL), "who trusts the first alone still can"
    held.end()
    _renew_people(federation)

    held = HeldRound.begin(federation)
    _retire(federation)
    for name in CLIENTS:
        eventually(f"{name} forgets the first", lambda name=name: _trusts_only(federation, name))
    held.end()
    _assert_refused(federation, kept)


def _certs(verb: str, federation: LocalFederation, *more: str, code: int = 0) -> str:
    """Runs `fednot certs` on the authority while the server uses it; gives what it prints."""
    directory = str(federation.identities.authority.directory)
    done = Command(FEDNOT, ["certs", verb, "--authority", directory, *more]).ended(30)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def _served(federation: LocalFederation) -> x509.Certificate:
    return certificate_served(federation.address, federation.identity_of(*OPERATOR))


def _authority_of(identities: Identities) -> x509.Certificate:
    directory = identities.authority.directory
    return x509.load_pem_x509_certificate((directory / "ca" / "cert.pem").read_bytes())


def _issued_by(federation: LocalFederation, name: str, authority: x509.Certificate) -> bool:
    """Whether a client's certificate is the authority's, and its trust what the server's is."""
    try:
        found = read_credentials(federation.identity_of(Role.CLIENT, name))
    except FednotError:  # the client is just replacing its files
        return False
    trust = federation.identities.authority.trust_pem
    return issued_by(found.certificate, authority) and found.trust == trust


def _trusts_only(federation: LocalFederation, name: str) -> bool:
    trust = (federation.identity_of(Role.CLIENT, name) / "ca.pem").read_bytes()
    assert trust.count(b"BEGIN CERTIFICATE") <= 2
    return trust == federation.identities.authority.trust_pem


def _renew_people(federation: LocalFederation) -> None:
    for role, name in (OPERATOR, OFFICER):
        federation.identities.issue(role, name)
        federation.reconnect(role, name)


def _retire(federation: LocalFederation) -> None:
    """Not before all are renewed, or shut out on purpose."""
    authority = federation.identities.authority
    assert authority.trust_pem.count(b"BEGIN CERTIFICATE") == 2
    refused = _certs("retire", federation, code=1)
    assert "auditor of-the-first" in refused
    assert "client c" not in refused
    _certs("retire", federation, "--force")
    assert authority.trust_pem.count(b"BEGIN CERTIFICATE") == 1


def _assert_refused(federation: LocalFederation, kept: Stubs) -> None:
    """A certificate of the retired authority, over its old connection and over a new one."""
    request = operator_pb2.GetStatusRequest()
    refused = refusal(lambda: kept.operator.GetStatus(request, timeout=CALL))
    assert refused.reason is Reason.UNTRUSTED_CERTIFICATE
    folder = federation.identity_of(Role.AUDITOR, "of-the-first")
    (folder / "ca.pem").write_bytes(federation.identities.authority.trust_pem)
    again = federation.reconnect(Role.AUDITOR, "of-the-first")
    with pytest.raises(grpc.RpcError) as caught:
        again.operator.GetStatus(request, timeout=CALL)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, "refused in the handshake"  # type: ignore[attr-defined]
