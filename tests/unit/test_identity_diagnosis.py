"""Every way in which TLS goes wrong gets its own reason, by looking over real sockets."""

from __future__ import annotations

import datetime as dt
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from support.handmade_authority import HandMadeAuthority, days_from_now, serving

from fednot.channel import open_channel
from fednot.errors import FednotError, Reason
from fednot.identity import certificates, probing
from fednot.identity import diagnosis as module
from fednot.identity.diagnosis import check_dates_of, diagnose, diagnose_enrolment
from fednot.identity.folder import Credentials, read_credentials
from fednot.identity.lifetime import ends_soon, remaining, renewal_due
from fednot.identity.probing import Deadline
from fednot.identity.subject import Role


@pytest.fixture
def authority() -> HandMadeAuthority:
    return HandMadeAuthority()


@pytest.fixture
def client(authority: HandMadeAuthority, tmp_path: Path) -> Credentials:
    return authority.identity(tmp_path / "client")


@pytest.fixture
def server(authority: HandMadeAuthority, tmp_path: Path) -> Credentials:
    return authority.server(tmp_path / "server")


def found(address: str, credentials: Credentials | None, reason: Reason) -> str:
    """The sentence of the finding, which must have this reason."""
    finding = diagnose(address, credentials, timeout=60)
    assert finding is not None
    assert finding.reason is reason, finding.message
    return finding.message


def port_of(address: str) -> str:
    return address.rpartition(":")[2]


def test_nothing_is_found_where_nothing_is_wrong(server: Credentials, client: Credentials) -> None:
    with serving(server) as address:
        assert diagnose(address, client, timeout=60) is None
        assert diagnose(f"localhost:{port_of(address)}", client) is None
        assert diagnose(f"dns:///localhost:{port_of(address)}", client) is None
    with serving(None) as address:
        assert diagnose(address, None) is None


def test_a_server_on_ipv6_is_looked_at(authority: HandMadeAuthority, tmp_path: Path) -> None:
    mine = authority.identity(tmp_path / "client")
    with serving(authority.server(tmp_path / "named", ("::1",)), "[::1]") as address:
        assert diagnose(address, mine) is None
    with serving(authority.server(tmp_path / "other", ("127.0.0.1",)), "[::1]") as address:
        told = found(address, mine, Reason.SERVER_NAME_MISMATCH)
        assert told.endswith("is for 127.0.0.1, not for ::1")


def test_nothing_listens_is_nothing_of_tls(client: Credentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for credentials in (client, None):
        assert diagnose(f"127.0.0.1:{port}", credentials) is None
        assert diagnose(f"no-such-host.invalid:{port}", credentials, timeout=2) is None
        assert diagnose(f"{'a' * 70}.invalid:{port}", credentials) is None
        assert diagnose("unix:/nowhere", credentials) is None


def test_the_own_certificate_has_expired(
    authority: HandMadeAuthority, server: Credentials, tmp_path: Path
) -> None:
    old = authority.identity(tmp_path / "old", begins=days_from_now(-5), days=2)
    ended = old.certificate.not_valid_after_utc
    with serving(server) as address:
        told = found(address, old, Reason.CERTIFICATE_EXPIRED)
    assert f"client c7 in {tmp_path}/old/cert.pem expired on {ended:%Y-%m-%d %H:%M}" in told


def test_the_own_certificate_is_not_yet_valid(
    authority: HandMadeAuthority, server: Credentials, tmp_path: Path
) -> None:
    early = authority.identity(tmp_path / "early", begins=days_from_now(1), days=2)
    with serving(server) as address:
        before = days_from_now(0)
        told = found(address, early, Reason.CERTIFICATE_NOT_YET_VALID)
    assert (
        f"{tmp_path}/early/cert.pem is valid from {early.certificate.not_valid_before_utc:%Y-%m-%d}"
        in told
    )
    (said,) = re.findall(r"the clock here says (\S+)", told)
    assert said in {f"{moment:%Y-%m-%d}" for moment in (before, days_from_now(0))}
    with pytest.raises(FednotError):
        check_dates_of(early)


def test_the_server_speaks_plaintext(client: Credentials) -> None:
    with serving(None) as address:
        assert address in found(address, client, Reason.SERVER_SPEAKS_PLAINTEXT)


def test_the_server_speaks_tls(server: Credentials) -> None:
    with serving(server) as address:
        assert "--insecure" in found(address, None, Reason.SERVER_SPEAKS_TLS)


def test_the_servers_authority_is_another(client: Credentials, tmp_path: Path) -> None:
    other = HandMadeAuthority("clinic authority").server(tmp_path / "other")
    with serving(other) as address:
        told = found(address, client, Reason.SERVER_UNTRUSTED)
    assert "CN=clinic authority (key " in told
    assert f"{tmp_path}/client/ca.pem trusts CN=fednot authority" in told


def test_another_authority_of_the_same_name_is_told_as_such(
    client: Credentials, tmp_path: Path
) -> None:
    """`fednot certs init` twice makes two authorities of one name."""
    with serving(HandMadeAuthority().server(tmp_path / "other")) as address:
        told = found(address, client, Reason.SERVER_UNTRUSTED)
    assert "another authority of the same name, CN=fednot authority (key " in told


def test_the_servers_certificate_has_expired(
    authority: HandMadeAuthority, client: Credentials, tmp_path: Path
) -> None:
    old = authority.identity(
        tmp_path / "old",
        Role.SERVER,
        "server",
        begins=days_from_now(-5),
        days=2,
        hosts=("127.0.0.1",),
    )
    with serving(old) as address:
        told = found(address, client, Reason.SERVER_CERTIFICATE_EXPIRED)
    assert f"expired on {old.certificate.not_valid_after_utc:%Y-%m-%d}" in told


def test_the_servers_certificate_is_not_yet_valid(
    authority: HandMadeAuthority, client: Credentials, tmp_path: Path
) -> None:
    early = authority.identity(
        tmp_path / "early", Role.SERVER, "server", begins=days_from_now(2), hosts=("127.0.0.1",)
    )
    with serving(early) as address:
        told = found(address, client, Reason.SERVER_CERTIFICATE_NOT_YET_VALID)
    assert f"is valid only from {early.certificate.not_valid_before_utc:%Y-%m-%d}" in told


def test_an_authority_that_has_ended_is_told(
    authority: HandMadeAuthority, server: Credentials, tmp_path: Path
) -> None:
    """The server's certificate is in date; the authority that this side trusts is not."""
    ended = certificates.self_signed_authority("fednot authority", authority.key, days=-1)
    mine = authority.identity(tmp_path / "mine", trust=certificates.pem_of([ended]))
    with serving(server) as address:
        told = found(address, mine, Reason.SERVER_UNTRUSTED)
    assert "an authority of its chain has ended" in told
    assert f"until {ended.not_valid_after_utc:%Y-%m-%d}" in told


def test_the_server_has_another_name(
    authority: HandMadeAuthority, client: Credentials, tmp_path: Path
) -> None:
    elsewhere = authority.server(tmp_path / "elsewhere", ("fed.example.org", "10.0.0.5"))
    with serving(elsewhere) as address:
        told = found(address, client, Reason.SERVER_NAME_MISMATCH)
        assert told.endswith("is for fed.example.org, 10.0.0.5, not for 127.0.0.1")
        by_name = found(f"localhost:{port_of(address)}", client, Reason.SERVER_NAME_MISMATCH)
        assert by_name.endswith("not for localhost")


def test_the_server_refuses_the_own_certificate(
    authority: HandMadeAuthority, server: Credentials, tmp_path: Path
) -> None:
    stranger = HandMadeAuthority("clinic authority").identity(
        tmp_path / "stranger", trust=authority.trust
    )
    with serving(server) as address:
        told = found(address, stranger, Reason.UNTRUSTED_CERTIFICATE)
    assert f"client c7 in {tmp_path}/stranger/cert.pem" in told
    assert "does not trust the issuer CN=clinic authority" in told


def test_a_machine_without_a_certificate_is_told_of_the_enrolment_port(
    authority: HandMadeAuthority, server: Credentials
) -> None:
    with serving(server) as address:
        finding = diagnose_enrolment(address, authority.trust, source="the token")
    assert finding is not None
    assert finding.reason is Reason.NO_CERTIFICATE
    assert "50052" in finding.message
    with serving(server, demand=False) as address:
        assert diagnose_enrolment(address, authority.trust, source="the token") is None
        other = diagnose_enrolment(address, HandMadeAuthority("x").trust, source="the token")
    assert other is not None
    assert other.reason is Reason.SERVER_UNTRUSTED
    assert "the token trusts CN=x" in other.message


def test_a_client_certificate_cannot_serve(
    authority: HandMadeAuthority, client: Credentials, tmp_path: Path
) -> None:
    """Even with the right host name in it: it may only be used to call (extended key usage)."""
    false = authority.identity(tmp_path / "false", name="c8", hosts=("127.0.0.1",))
    with serving_health(false) as address:
        with pytest.raises(grpc.RpcError) as refused:
            ask_health(address, client)
        told = found(address, client, Reason.SERVER_UNTRUSTED)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
    assert "(client c8) is not to be trusted: it is not a server's" in told


def test_a_certificate_of_another_role_is_told_whatever_it_may_be_used_for(
    authority: HandMadeAuthority, client: Credentials, tmp_path: Path
) -> None:
    """One without an extended key usage, which fednot never signs, may be used for anything."""
    made = authority.identity(tmp_path / "any", name="c8", hosts=("127.0.0.1",))
    bare = without_purpose(made.certificate, authority)
    (tmp_path / "any" / "cert.pem").write_bytes(certificates.pem_of([bare]))
    with serving(read_credentials(tmp_path / "any")) as address:
        told = found(address, client, Reason.SERVER_UNTRUSTED)
    assert "(client c8) is not to be trusted: it is not a server's" in told


def without_purpose(made: x509.Certificate, authority: HandMadeAuthority) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(made.subject)
        .issuer_name(made.issuer)
        .public_key(made.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(made.not_valid_before_utc)
        .not_valid_after(made.not_valid_after_utc)
    )
    for extension in made.extensions:
        if not isinstance(extension.value, x509.ExtendedKeyUsage):
            builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(authority.key, hashes.SHA256())


def test_a_server_certificate_can_serve(server: Credentials, client: Credentials) -> None:
    with serving_health(server) as address:
        assert ask_health(address, client) == health_pb2.HealthCheckResponse.SERVING


def test_tls_without_http2_is_told(server: Credentials, client: Credentials) -> None:
    with tls_only(server, alpn=[], then=b"220 ready\r\n") as address:
        assert "no HTTP/2" in found(address, client, Reason.TLS_FAILED)


def test_something_else_than_tls_is_told(client: Credentials) -> None:
    with raw_server(b"220 mail.example.org ESMTP\r\n") as address:
        assert "speaks no TLS" in found(address, client, Reason.TLS_FAILED)
    with raw_server(b"") as address:
        assert "closed the connection" in found(address, client, Reason.TLS_FAILED)


def test_a_look_never_takes_longer_than_allowed(client: Credentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        for credentials in (client, None):
            begun = time.monotonic()
            finding = diagnose(address, credentials, timeout=2.0)
            assert (finding is None) == (credentials is None)
            if finding is not None:
                assert finding.reason is Reason.TLS_FAILED
                assert "did not answer the TLS handshake within 2 s" in finding.message
            assert 1.5 < time.monotonic() - begun < 20


def test_a_server_that_stops_is_not_taken_for_one_that_refuses(
    server: Credentials, client: Credentials
) -> None:
    """It closes the connection as a refusal does, but does not listen any more."""
    with tls_only(server, alpn=["h2"], then=b"", connections=1) as address:
        assert diagnose(address, client, timeout=60) is None


class Spending:
    """A deadline of 30 s, all of which can be spent at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deadline = Deadline(30.0)
        monkeypatch.setattr(module, "Deadline", lambda _: self.deadline)

    def spend(self, _: float = 0.0) -> None:
        self.deadline._end = time.monotonic()


def test_a_refusal_that_was_seen_once_counts_if_no_time_is_left_to_look_again(
    authority: HandMadeAuthority,
    server: Credentials,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stranger = HandMadeAuthority("other").identity(tmp_path / "x", trust=authority.trust)
    spending = Spending(monkeypatch)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=spending.spend))
    with serving(server) as address:
        found(address, stranger, Reason.UNTRUSTED_CERTIFICATE)


def test_no_time_for_the_handshake_is_not_nothing_wrong(
    server: Credentials, client: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    spending, connect = Spending(monkeypatch), probing.connect

    def slowly(address: str, deadline: Deadline) -> socket.socket:
        link = connect(address, deadline)
        spending.spend()
        return link

    monkeypatch.setattr(probing, "connect", slowly)
    with serving(server) as address:
        told = found(address, client, Reason.TLS_FAILED)
    assert told.endswith("it did not answer the TLS handshake within 30 s")


def test_silence_after_the_handshake_is_not_nothing_wrong(
    server: Credentials, client: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate may yet be refused: a refusal is heard only then."""
    monkeypatch.setattr(probing, "_first_answer", lambda *_: None)
    with serving(server) as address:
        told = found(address, client, Reason.TLS_FAILED)
    assert "it said nothing after the TLS handshake within" in told


def test_lifetimes(authority: HandMadeAuthority, tmp_path: Path) -> None:
    short = authority.identity(tmp_path / "short", days=9).certificate
    end = short.not_valid_after_utc
    third = (end - short.not_valid_before_utc) / 3
    second = dt.timedelta(seconds=1)
    assert renewal_due(short) == end - third
    assert not ends_soon(short, end - third - second)
    assert ends_soon(short, end - third)
    long_lived = HandMadeAuthority(days=400).identity(tmp_path / "long", days=400).certificate
    warned = long_lived.not_valid_after_utc - dt.timedelta(days=30)
    assert not ends_soon(long_lived, warned - second)
    assert ends_soon(long_lived, warned)
    assert remaining(short, end - dt.timedelta(days=8)).endswith("UTC, in 8 days")
    assert remaining(short, end - dt.timedelta(hours=3)).endswith("UTC, in 3 h")
    assert remaining(short, end - dt.timedelta(seconds=40)).endswith("UTC, in 40 s")
    assert remaining(short, end + dt.timedelta(days=1)).endswith("UTC, in 0 s")


@contextmanager
def serving_health(credentials: Credentials) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    pair = [(credentials.private_key, credentials.chain)]
    secured = grpc.ssl_server_credentials(pair, credentials.trust, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", secured)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def ask_health(address: str, credentials: Credentials) -> int:
    with open_channel(address, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status)


@contextmanager
def tls_only(
    credentials: Credentials, *, alpn: list[str], then: bytes, connections: int = 8
) -> Iterator[str]:
    """A TLS server that says something after the handshake and closes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(credentials.folder / "cert.pem", credentials.folder / "key.pem")
    context.set_alpn_protocols(alpn)

    def answer(link: socket.socket) -> None:
        with context.wrap_socket(link, server_side=True) as secured:
            secured.sendall(then)
            time.sleep(0.1)

    with answering(answer, connections) as address:
        yield address


@contextmanager
def raw_server(greeting: bytes) -> Iterator[str]:
    def answer(link: socket.socket) -> None:
        link.sendall(greeting)
        if greeting:
            link.recv(4096)
        link.close()

    with answering(answer, 8) as address:
        yield address


@contextmanager
def answering(answer: object, connections: int) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def serve() -> None:
        for _ in range(connections):
            try:
                link, _ = listener.accept()
                answer(link)  # type: ignore[operator]
            except OSError:
                pass
        listener.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{port}"
    listener.close()
