"""`fednot preflight`: each check can fail, over real sockets, and says what to do."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status
from support.handmade_authority import HandMadeAuthority, days_from_now
from support.handmade_authority import serving as bare_serving
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.errors import FednotError, Reason
from fednot.identity.folder import Credentials
from fednot.identity.subject import Role
from fednot.rpc_errors import to_status
from fednot.v1 import identity_pb2 as pb
from fednot.v1 import identity_pb2_grpc

IN_PLAINTEXT = ["address", "port", "tls", "caller", "clock", "calls"]
OVER_TLS = ["identity", "key", "dates", *IN_PLAINTEXT, "renewal"]


class Desk(identity_pb2_grpc.IdentityServiceServicer):
    """Says who calls; its clock may be wrong. It does `work` at its first call."""

    def __init__(self, *, ahead: float = 0.0, refusal: FednotError | None = None) -> None:
        self.ahead = ahead
        self.refusal = refusal
        self.work: Callable[[], object] = lambda: None

    def GetIdentity(self, request: Any, context: Any) -> pb.GetIdentityResponse:
        if self.refusal is not None:
            context.abort_with_status(rpc_status.to_status(to_status(self.refusal)))
        work, self.work = self.work, lambda: None
        work()
        shown = bool(context.auth_context().get("x509_pem_cert"))
        now = Timestamp()
        now.FromNanoseconds(int((time.time() + self.ahead) * 1e9))
        return pb.GetIdentityResponse(
            caller=pb.Caller(role=pb.ROLE_OFFICER, name="dora") if shown else None,
            domain="fednot",
            now=now,
            software_version="9.9",
            can_renew=True,
            permitted=["/fednot.v1.DeletionService/Unlearn", "/fednot.v1.AuditService/List"],
        )


@contextmanager
def serving(
    credentials: Credentials | None, desk: Desk, address: str = "127.0.0.1:0"
) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(desk, server)
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        pair = [(credentials.private_key, credentials.chain)]
        tls = grpc.ssl_server_credentials(pair, credentials.trust, require_client_auth=True)
        port = server.add_secure_port(address, tls)
    server.start()
    yield address.removesuffix(":0") + (f":{port}" if address.endswith(":0") else "")
    server.stop(None).wait()


@pytest.fixture
def authority() -> HandMadeAuthority:
    return HandMadeAuthority(days=400)


@pytest.fixture
def server(authority: HandMadeAuthority, tmp_path: Path) -> Credentials:
    return authority.server(tmp_path / "server", days=100)


@pytest.fixture
def officer(authority: HandMadeAuthority, tmp_path: Path) -> Credentials:
    return authority.identity(tmp_path / "dora", Role.OFFICER, "dora", days=100)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["preflight", *arguments], env={}, catch_exceptions=False)


def checks(address: str, *more: str, code: int) -> dict[str, dict[str, str]]:
    """The checks by name, in the order in which they were made."""
    result = run("--server", address, "--format", "json", *more)
    assert result.exit_code == code, result.output
    found = json.loads(result.stdout)
    assert found["exit_code"] == code
    return {row["name"]: row for row in found["checks"]}


def outcomes(found: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    by: dict[str, list[str]] = {}
    for name, row in found.items():
        by.setdefault(row["outcome"], []).append(name)
    return by


def test_all_is_well(server: Credentials, officer: Credentials) -> None:
    with serving(server, Desk()) as address:
        found = checks(address, "--identity", str(officer.folder), code=0)
        text = run("--server", address, "--identity", str(officer.folder))
    assert outcomes(found) == {"ok": OVER_TLS}
    assert found["identity"]["message"].startswith("spiffe://fednot/officer/dora in ")
    assert found["caller"]["message"].startswith("you are officer dora of fednot")
    assert found["calls"]["message"] == "you may call DeletionService: Unlearn; AuditService: List"
    assert f"{server.certificate.not_valid_after_utc:%Y-%m-%d}" in found["tls"]["message"]
    assert text.exit_code == 0
    assert [line.split()[:2] for line in text.stdout.splitlines()] == [["ok", n] for n in OVER_TLS]


def test_plaintext_has_fewer_checks() -> None:
    with serving(None, Desk()) as address:
        found = checks(address, "--insecure", code=0)
    assert outcomes(found) == {"ok": IN_PLAINTEXT}
    assert "nobody asks who you are" in found["caller"]["message"]


def test_a_folder_without_an_identity_still_has_its_network_checked(
    server: Credentials, tmp_path: Path
) -> None:
    with serving(server, Desk()) as address:
        found = checks(address, "--identity", str(tmp_path / "none"), code=3)
    assert found["identity"]["reason"] == "INVALID_IDENTITY"
    assert found["identity"]["remedy"]
    assert outcomes(found) == {
        "failed": ["identity"],
        "skipped": [name for name in OVER_TLS if name not in ("identity", "address", "port")],
        "ok": ["address", "port"],
    }
    assert found["tls"]["message"] == "not tried, since identity failed"


def test_an_expired_certificate(
    authority: HandMadeAuthority, server: Credentials, tmp_path: Path
) -> None:
    authority.identity(tmp_path / "old", Role.OFFICER, "dora", begins=days_from_now(-9), days=8)
    with serving(server, Desk()) as address:
        found = checks(address, "--identity", str(tmp_path / "old"), code=3)
    assert found["dates"]["reason"] == "CERTIFICATE_EXPIRED"
    assert found["identity"]["outcome"] == "ok"
    assert found["tls"]["outcome"] == "skipped"


def test_what_is_only_unwise_warns_and_succeeds(
    authority: HandMadeAuthority, tmp_path: Path
) -> None:
    """A key that others can read, clocks far apart, both certificates at their ends."""
    begins = days_from_now(-80)
    mine = authority.identity(tmp_path / "d", Role.OFFICER, "dora", begins=begins, days=100)
    own = authority.identity(
        tmp_path / "s", Role.SERVER, "server", begins=begins, days=100, hosts=("127.0.0.1",)
    )
    (mine.folder / "key.pem").chmod(0o644)
    with serving(own, Desk(ahead=-90)) as address:
        found = checks(address, "--identity", str(mine.folder), code=0)
    assert outcomes(found)["warning"] == ["key", "tls", "clock", "renewal"]
    assert found["key"]["remedy"] == f"chmod 600 {mine.folder}/key.pem"
    assert re.search(r"\b(8[5-9]|9[0-5])\.\d s behind this one", found["clock"]["message"])
    assert f"ends {mine.certificate.not_valid_after_utc:%Y-%m-%d}" in found["renewal"]["message"]


def test_clocks_a_minute_apart_are_well(server: Credentials, officer: Credentials) -> None:
    with serving(server, Desk(ahead=55)) as address:
        found = checks(address, "--identity", str(officer.folder), code=0)
    assert found["clock"]["outcome"] == "ok"
    assert "ahead of this one" in found["clock"]["message"]


def test_a_slow_dial_is_no_difference_of_clocks(
    server: Credentials, officer: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes ten minutes by the clocks of both sides."""
    desk = Desk()
    desk.work = lambda: setattr(desk, "ahead", 600.0)
    here = SimpleNamespace(time=lambda: time.time() + desk.ahead)
    monkeypatch.setattr("fednot.cli.preflight.network.time", here)
    with serving(server, desk) as address:
        found = checks(address, "--identity", str(officer.folder), code=0)
    assert desk.ahead
    assert found["clock"]["outcome"] == "ok", found["clock"]["message"]


def test_a_name_that_stands_for_nothing(officer: Credentials) -> None:
    found = checks("no-such-host.invalid:1", "--identity", str(officer.folder), code=4)
    assert found["address"]["reason"] == "UNREACHABLE"
    assert found["address"]["message"].startswith("no-such-host.invalid cannot be resolved: ")
    assert "Errno" not in found["address"]["message"]
    assert "getent hosts no-such-host.invalid" in found["address"]["remedy"]
    assert found["port"]["outcome"] == "skipped"


def test_a_port_on_which_nobody_listens(officer: Credentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    found = checks(address, "--identity", str(officer.folder), code=4)
    assert found["address"]["message"] == f"{address} is 127.0.0.1"
    assert found["port"]["message"] == f"no connection to {address}: Connection refused"
    assert found["port"]["remedy"].startswith("Nothing listens on port ")
    assert found["caller"]["message"] == "not tried, since tls failed"


def test_a_port_that_is_silent_is_told_once_its_time_is_up(officer: Credentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        found = checks(address, "--identity", str(officer.folder), "--timeout", "3", code=4)
    assert found["tls"]["reason"] == "TLS_FAILED"
    assert found["tls"]["message"].endswith("it did not answer the TLS handshake within 3 s")
    assert "preflight" not in found["tls"]["remedy"]


def test_a_socket_of_this_machine_is_for_plaintext(officer: Credentials, tmp_path: Path) -> None:
    """gRPC would look for the socket's path among the names of the server's certificate."""
    address = f"unix:{tmp_path}/socket"
    refused = run("--server", address, "--identity", str(officer.folder))
    assert refused.exit_code == 2
    assert f"{address} has no host name" in refused.stderr
    with serving(None, Desk(), address):
        found = checks(address, "--insecure", code=0)
    assert outcomes(found) == {"ok": IN_PLAINTEXT}


def test_the_enrolment_port_is_named_as_what_it_may_be(
    authority: HandMadeAuthority, server: Credentials, officer: Credentials
) -> None:
    """It asks for no certificate and serves no other call."""
    with bare_serving(server) as address:
        found = checks(address, "--identity", str(officer.folder), code=3)
    assert "takes yours" not in found["tls"]["message"]
    assert found["caller"]["reason"] == "UNIMPLEMENTED"
    assert "may be its enrolment port" in found["caller"]["remedy"]


def test_a_server_of_another_authority(officer: Credentials, tmp_path: Path) -> None:
    with serving(HandMadeAuthority("other").server(tmp_path / "o"), Desk()) as address:
        found = checks(address, "--identity", str(officer.folder), code=3)
    assert found["tls"]["reason"] == "SERVER_UNTRUSTED"
    assert "CN=other" in found["tls"]["message"]


def test_a_certificate_that_the_server_refuses(
    authority: HandMadeAuthority, server: Credentials, tmp_path: Path
) -> None:
    HandMadeAuthority("other").identity(tmp_path / "x", Role.OFFICER, trust=authority.trust)
    with serving(server, Desk()) as address:
        found = checks(address, "--identity", str(tmp_path / "x"), code=3)
    assert found["tls"]["reason"] == "UNTRUSTED_CERTIFICATE"


def test_a_caller_whom_the_server_refuses(server: Credentials, officer: Credentials) -> None:
    refusal = FednotError(Reason.CERTIFICATE_REVOKED, "it was revoked")
    with serving(server, Desk(refusal=refusal)) as address:
        found = checks(address, "--identity", str(officer.folder), code=3)
    assert (found["caller"]["reason"], found["caller"]["message"]) == (
        "CERTIFICATE_REVOKED",
        "it was revoked",
    )
    assert outcomes(found)["skipped"] == ["clock", "calls", "renewal"]


def test_plaintext_to_a_server_of_tls(server: Credentials) -> None:
    with serving(server, Desk()) as address:
        found = checks(address, "--insecure", code=3)
    assert found["tls"]["reason"] == "SERVER_SPEAKS_TLS"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--insecure", "--identity", "i"],
        ["--insecure", "--server", "10.0.0.5:50051"],
        ["--insecure", "--server", "nowhere"],
    ],
)
def test_options_that_do_not_go_together(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2
