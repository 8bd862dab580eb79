"""`fednot certs token`, `enroll` and `renew`, against small real servers over TLS."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status
from support.identities import mutual_tls
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.errors import FednotError, Reason
from fednot.identity import certificates, replacement
from fednot.identity.authority import Authority
from fednot.identity.folder import Credentials, read_credentials
from fednot.identity.subject import Role, Subject
from fednot.identity.token import Token
from fednot.rpc_errors import to_status
from fednot.v1 import identity_pb2 as pb
from fednot.v1 import identity_pb2_grpc as services

LOST = object()


@dataclass
class Signer(services.EnrolmentServiceServicer, services.IdentityServiceServicer):
    """A server's two services of certificates, with an authority of its own."""

    authority: Authority
    tokens: dict[str, Token] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    lose: int = 0
    valid_for: float | None = None
    subject: Subject | None = None
    another: bytes | None = None
    """A request that is signed instead of the one that came."""

    def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollResponse:
        token = self.tokens.get(request.secret)
        if token is None:
            abort(context, FednotError(Reason.INVALID_TOKEN, "this server made no such token"))
        _, key = certificates.read_request(request.certificate_request)
        digest = certificates.key_digest(key)
        if self.keys.setdefault(token.secret, digest) != digest:
            abort(context, FednotError(Reason.TOKEN_USED, "the token was used with another key"))
        signed = self.signed(request.certificate_request, self.subject or token.subject)
        if self.lose:
            self.lose -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        return pb.EnrollResponse(certificate=signed)

    def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:
        token = Token.fresh(request.client, self.authority.domain, self.authority.trust_pem)
        self.tokens[token.secret] = token
        self.valid_for = request.valid_for.ToNanoseconds() / 1e9
        until = Timestamp(seconds=int(time.time()) + 60)
        return pb.CreateTokenResponse(token=token.text(), expires_at=until)

    def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Any
    ) -> pb.RenewCertificateResponse:
        [pem] = context.auth_context()["x509_pem_cert"]
        subject = certificates.subject_of(x509.load_pem_x509_certificate(pem))
        signed = self.signed(request.certificate_request, subject)
        return pb.RenewCertificateResponse(certificate=signed)

    def signed(self, request: bytes, subject: Subject) -> pb.SignedCertificate:
        found = self.authority.sign(self.another or request, subject)
        return pb.SignedCertificate(chain=found.chain, trust=found.trust)


def abort(context: Any, error: FednotError) -> None:
    context.abort_with_status(rpc_status.to_status(to_status(error)))


@dataclass
class Place:
    """The servers' addresses: with and without a demand for certificates."""

    signer: Signer
    folder: Path
    address: str
    enrolment: str

    @property
    def operator(self) -> tuple[str, ...]:
        folder = self.folder / "olga"
        if not folder.exists():
            self.signer.authority.issue(Subject(Role.OPERATOR, "olga"), folder)
        return ("--server", self.address, "--identity", str(folder))

    def token(self, client: str = "clinic-a") -> str:
        result = run("certs", "token", client, *self.operator)
        assert result.exit_code == 0, result.output
        return str(result.stdout).strip()

    def enroll(self, folder: Path, *more: str, given: str = "", **environment: str) -> Any:
        where = ("--server", self.enrolment, "--out", str(folder), *more)
        return run("certs", "enroll", *where, given=given, **environment)


def run(*arguments: str, given: str = "", **environment: str) -> Any:
    runner = CliRunner()
    return runner.invoke(app, arguments, input=given, env=environment, catch_exceptions=False)


def failure(result: Any, code: int) -> dict[str, Any]:
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stderr.splitlines()[-1])
    return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    signer = Signer(Authority.create(tmp_path / "authority", hosts=("127.0.0.1",)))
    own = read_credentials(signer.authority.server_folder)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    services.add_IdentityServiceServicer_to_server(signer, server)
    port = server.add_secure_port("127.0.0.1:0", mutual_tls(own.folder))
    entrance = grpc.server(futures.ThreadPoolExecutor(4))
    services.add_EnrolmentServiceServicer_to_server(signer, entrance)
    pair = [(own.private_key, own.chain)]
    enrolment_port = entrance.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
    server.start()
    entrance.start()
    yield Place(signer, tmp_path, f"127.0.0.1:{port}", f"127.0.0.1:{enrolment_port}")
    server.stop(None).wait()
    entrance.stop(None).wait()


def test_a_token_goes_to_stdout_alone(place: Place) -> None:
    result = run("certs", "token", "clinic-a", *place.operator, "--valid-for", "120")
    assert Token.parse(result.stdout).subject == Subject(Role.CLIENT, "clinic-a")
    assert result.stdout.count("\n") == 1
    assert "good until" in result.stderr
    assert place.signer.valid_for == 120


def test_a_token_goes_into_a_private_file(place: Place) -> None:
    target = place.folder / "clinic-a.token"
    arguments = ("certs", "token", "clinic-a", *place.operator, "--out", str(target))
    result = run(*arguments, "--format", "json")
    assert set(json.loads(result.stdout)) == {"file", "expires_at"}
    assert target.stat().st_mode & 0o777 == 0o600
    assert Token.parse(target.read_text()).client == "clinic-a"
    tokens = len(place.signer.tokens)
    again = run(*arguments)
    assert again.exit_code == 2
    assert "name another file" in again.stderr.replace("\n", " ")
    assert "--force" not in again.stderr
    assert len(place.signer.tokens) == tokens


@pytest.mark.parametrize("way", ["file", "dash", "pipe", "variable"])
def test_a_token_becomes_an_identity(place: Place, way: str) -> None:
    token, folder = place.token(), place.folder / "new"
    match way:
        case "file":
            (place.folder / "t").write_text(f"{token}\n")
            result = place.enroll(folder, "--token-file", str(place.folder / "t"))
        case "dash":
            result = place.enroll(folder, "--token-file", "-", given=token)
        case "pipe":
            result = place.enroll(folder, given=f"{token}\n")
        case _:
            result = place.enroll(folder, FEDNOT_TOKEN=token)
    assert result.exit_code == 0, result.output
    found = read_credentials(folder)
    assert found.subject == Subject(Role.CLIENT, "clinic-a")
    assert found.trust == place.signer.authority.trust_pem
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_after_a_lost_reply_the_same_command_succeeds(place: Place) -> None:
    token, folder = place.token(), place.folder / "new"
    place.signer.lose = 1
    lost = failure(place.enroll(folder, "--format", "json", given=token), 4)
    assert f"repeat the command with the same --out {folder}" in lost["remedy"]
    key = (folder / "key.pem").read_bytes()
    assert not (folder / "cert.pem").exists()
    again = place.enroll(folder, "--format", "json", given=token)
    assert json.loads(again.stdout)["certificate"]["name"] == "clinic-a"
    assert (folder / "key.pem").read_bytes() == key


def test_a_used_token_is_refused_elsewhere(place: Place) -> None:
    token = place.token()
    assert place.enroll(place.folder / "one", given=token).exit_code == 0
    refused = failure(place.enroll(place.folder / "two", "--format", "json", given=token), 3)
    assert refused["reason"] == "TOKEN_USED"
    assert not (place.folder / "two" / "cert.pem").exists()


def test_a_folder_with_a_certificate_is_left_alone(place: Place) -> None:
    folder = place.folder / "new"
    assert place.enroll(folder, given=place.token()).exit_code == 0
    before = read_credentials(folder)
    refused = failure(place.enroll(folder, "--format", "json", given=place.token()), 3)
    assert f"{folder}/cert.pem is there already" in refused["error"]
    assert "or name another folder" in refused["remedy"]
    assert "--identity" not in refused["remedy"]
    assert refused["metadata"] == {}
    assert read_credentials(folder) == before


def test_a_token_that_is_none_is_told_without_a_call(place: Place) -> None:
    token = place.token()
    for text in ("", "nonsense", token[: len(token) // 2]):
        refused = failure(place.enroll(place.folder / "new", "--format", "json", given=text), 3)
        assert refused["reason"] == "INVALID_TOKEN"
    missing = place.enroll(place.folder / "new", "--token-file", str(place.folder / "none"))
    assert missing.exit_code == 2
    assert not (place.folder / "new").exists()


def test_a_certificate_for_another_key_is_not_taken(place: Place) -> None:
    """What a server signs is written over an identity only if it is for this machine's key."""
    subject, folder = Subject(Role.CLIENT, "clinic-a"), place.folder / "new"
    token = place.token()
    asked = certificates.request(subject, certificates.new_key())
    place.signer.another = certificates.request_pem(asked)
    refused = failure(place.enroll(folder, "--format", "json", given=token), 3)
    assert refused["reason"] == "INVALID_CERTIFICATE"
    assert refused["error"].endswith("it is for another key")
    assert not (folder / "cert.pem").exists()

    before = place.signer.authority.issue(subject, place.folder / "i")
    where = ("--server", place.address, "--identity", str(before.folder), "--format", "json")
    assert "it is for another key" in failure(run("certs", "renew", *where), 3)["error"]
    assert read_credentials(before.folder) == before


def test_a_token_is_good_for_a_month_at_the_most(place: Place) -> None:
    month = 30 * 24 * 3600
    for seconds, code in ((month, 0), (month + 1, 2), (99999999, 2), (0, 2)):
        result = run("certs", "token", "c1", *place.operator, "--valid-for", str(seconds))
        assert result.exit_code == code, result.output
        assert code == 0 or "30 days" in result.stderr
    assert place.signer.valid_for == month


def test_the_server_must_be_of_the_tokens_authority(place: Place) -> None:
    """Else whoever sits at the address would be told the secret."""
    foreign = Authority.create(place.folder / "foreign", hosts=("127.0.0.1",))
    token = Token.fresh("clinic-a", "fednot", foreign.trust_pem)
    place.signer.tokens[token.secret] = token
    result = place.enroll(place.folder / "new", "--format", "json", given=token.text())
    refused = failure(result, 3)
    assert refused["reason"] == "SERVER_UNTRUSTED"
    assert "the token trusts" in refused["error"]
    assert place.signer.keys == {}


def test_the_wrong_port_is_told(place: Place) -> None:
    where = ("--server", place.address, "--out", str(place.folder / "new"), "--format", "json")
    refused = failure(run("certs", "enroll", *where, given=place.token()), 3)
    assert refused["reason"] == "NO_CERTIFICATE"
    assert "50052" in refused["error"]


def test_renewal_replaces_key_and_certificate(place: Place) -> None:
    folder = place.folder / "new"
    assert place.enroll(folder, given=place.token()).exit_code == 0
    before = read_credentials(folder)
    place.signer.authority.rotate()
    where = ("--server", place.address, "--identity", str(folder), "--format", "json")
    result = run("certs", "renew", *where)
    assert result.exit_code == 0, result.output
    after = read_credentials(folder)
    assert after.subject == before.subject
    assert after.private_key != before.private_key
    assert after.trust == place.signer.authority.trust_pem != before.trust
    assert not (folder / replacement.REPLACEMENT).exists()


def test_plaintext_has_nothing_to_renew() -> None:
    result = run("certs", "renew", "--insecure", "--format", "json")
    assert "no certificate to renew" in failure(result, 2)["error"]


def old_and_new(place: Place) -> tuple[Credentials, Credentials]:
    subject = Subject(Role.CLIENT, "clinic-a")
    old = place.signer.authority.issue(subject, place.folder / "i")
    return old, place.signer.authority.issue(subject, place.folder / "other")


@pytest.mark.parametrize("writes", range(5))
def test_a_replacement_cut_off_anywhere_leaves_a_pair_that_fits(
    place: Place, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """The process dies after so many writes; the next start takes the old pair or the new."""
    old, new = old_and_new(place)
    folder, left = place.folder / "i", iter(range(writes))
    write = replacement.write_private

    def dying(path: Path, content: bytes, **more: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(path, content, **more)

    monkeypatch.setattr(replacement, "write_private", dying)
    monkeypatch.setattr("fednot.identity.folder.write_private", dying)
    try:
        replacement.replace(folder, chain=new.chain, trust=new.trust, key=new.private_key)
    except KeyboardInterrupt:
        assert writes < 4
    else:
        assert writes == 4
    monkeypatch.undo()
    replacement.finish_replacement(folder)
    expected = old if writes < 2 else new
    assert read_credentials(folder).certificate == expected.certificate
    assert not (folder / replacement.REPLACEMENT).exists()


def test_a_replacement_that_cannot_be_read_is_told(place: Place) -> None:
    old, _ = old_and_new(place)
    for text in ("{", "{}", "[]"):
        (old.folder / replacement.REPLACEMENT).write_text(text)
        (old.folder / "key.pem").write_bytes(certificates.key_pem(certificates.new_key()))
        with pytest.raises(FednotError, match=replacement.REPLACEMENT):
            replacement.finish_replacement(old.folder)
