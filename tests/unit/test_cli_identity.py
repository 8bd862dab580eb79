"""With which identity a verb calls, and what it says when TLS goes wrong, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from support.handmade_authority import HandMadeAuthority, days_from_now
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.identity.folder import Credentials
from fednot.identity.subject import Role
from fednot.v1 import operator_pb2, operator_pb2_grpc


class Callers(operator_pb2_grpc.OperatorServiceServicer):
    """Notes the serial number of each caller's certificate."""

    def __init__(self) -> None:
        self.serials: list[int] = []

    def ListClients(self, request: Any, context: Any) -> operator_pb2.ListClientsResponse:
        for pem in context.auth_context().get("x509_pem_cert", []):
            self.serials.append(x509.load_pem_x509_certificate(pem).serial_number)
        return operator_pb2.ListClientsResponse()


@contextmanager
def serving(credentials: Credentials | None, callers: Callers) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    operator_pb2_grpc.add_OperatorServiceServicer_to_server(callers, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = [(credentials.private_key, credentials.chain)]
        tls = grpc.ssl_server_credentials(pair, credentials.trust, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", tls)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def authority() -> HandMadeAuthority:
    return HandMadeAuthority(days=400)


@pytest.fixture
def server(authority: HandMadeAuthority, tmp_path: Path) -> Credentials:
    return authority.server(tmp_path / "server")


@pytest.fixture
def operator(authority: HandMadeAuthority, tmp_path: Path) -> Credentials:
    return authority.identity(tmp_path / "olga", Role.OPERATOR, "olga", days=100)


def clients(address: str, *more: str, **environment: str) -> Any:
    arguments = ["clients", "--server", address, "--format", "json", *more]
    return CliRunner().invoke(app, arguments, env=environment, catch_exceptions=False)


def error_of(result: Any, code: int) -> dict[str, Any]:
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stderr.splitlines()[-1])
    return found


def test_a_verb_calls_with_its_identity(server: Credentials, operator: Credentials) -> None:
    callers = Callers()
    with serving(server, callers) as address:
        by_flag = clients(address, "--identity", str(operator.folder))
        by_variable = clients(address, FEDNOT_IDENTITY=str(operator.folder))
    assert (by_flag.exit_code, by_variable.exit_code) == (0, 0)
    assert callers.serials == 2 * [operator.certificate.serial_number]
    assert by_flag.stderr == ""


def test_an_end_that_is_near_is_told(
    authority: HandMadeAuthority, server: Credentials, tmp_path: Path
) -> None:
    begins = days_from_now(-71)
    near = authority.identity(tmp_path / "near", Role.OPERATOR, "olga", begins=begins, days=100)
    with serving(server, Callers()) as address:
        result = clients(address, "--identity", str(near.folder))
    assert result.exit_code == 0
    end = near.certificate.not_valid_after_utc
    assert f"operator olga in {tmp_path}/near/cert.pem ends {end:%Y-%m-%d}" in result.stderr


def test_an_identity_that_is_not_there_is_told_before_dialling(tmp_path: Path) -> None:
    error = error_of(clients("127.0.0.1:1", "--identity", str(tmp_path / "nowhere")), 3)
    assert error["reason"] == "INVALID_IDENTITY"
    assert f"cert.pem in {tmp_path}/nowhere, which is not a folder" in error["error"]


def test_a_file_in_the_place_of_the_folder_is_told_with_its_folder(operator: Credentials) -> None:
    file = operator.folder / "cert.pem"
    error = error_of(clients("127.0.0.1:1", "--identity", str(file)), 3)
    assert error["error"] == f"{file} is a file"
    assert error["remedy"] == f"Give the folder that it is in: {operator.folder}"
    assert error["metadata"] == {}


def test_a_key_that_others_can_read_is_warned_of(
    server: Credentials, operator: Credentials
) -> None:
    key = operator.folder / "key.pem"
    with serving(server, Callers()) as address:
        for mode in (0o640, 0o604):
            key.chmod(mode)
            result = clients(address, "--identity", str(operator.folder))
            assert result.exit_code == 0
            [warning] = result.stderr.splitlines()
            assert f"warning: others than its owner can read or write {key} (mode 0" in warning
        key.chmod(0o400)
        assert clients(address, "--identity", str(operator.folder)).stderr == ""


def test_an_expired_identity_is_told_before_dialling(
    authority: HandMadeAuthority, tmp_path: Path
) -> None:
    authority.identity(tmp_path / "old", begins=days_from_now(-5), days=2)
    error = error_of(clients("127.0.0.1:1", "--identity", str(tmp_path / "old")), 3)
    assert error["reason"] == "CERTIFICATE_EXPIRED"
    assert f"{tmp_path}/old/cert.pem expired on" in error["error"]


def test_nobody_calls_as_a_server(server: Credentials) -> None:
    error = error_of(clients("127.0.0.1:1", "--identity", str(server.folder)), 3)
    assert error["reason"] == "WRONG_ROLE"


def test_a_refused_certificate_is_told(
    authority: HandMadeAuthority, server: Credentials, tmp_path: Path
) -> None:
    HandMadeAuthority("other").identity(
        tmp_path / "x", Role.OPERATOR, "olga", trust=authority.trust
    )
    with serving(server, Callers()) as address:
        error = error_of(clients(address, "--identity", str(tmp_path / "x")), 3)
    assert error["reason"] == "UNTRUSTED_CERTIFICATE"
    assert "CN=other" in error["error"]
    assert error["remedy"]


def test_an_untrusted_server_is_told(operator: Credentials, tmp_path: Path) -> None:
    with serving(HandMadeAuthority("other").server(tmp_path / "o"), Callers()) as address:
        error = error_of(clients(address, "--identity", str(operator.folder)), 3)
    assert error["reason"] == "SERVER_UNTRUSTED"


def test_plaintext_and_tls_that_meet_are_told(server: Credentials, operator: Credentials) -> None:
    with serving(server, Callers()) as address:
        assert error_of(clients(address, "--insecure"), 3)["reason"] == "SERVER_SPEAKS_TLS"
    with serving(None, Callers()) as address:
        error = error_of(clients(address, "--identity", str(operator.folder)), 3)
        assert error["reason"] == "SERVER_SPEAKS_PLAINTEXT"


def test_a_server_that_is_not_there_is_no_fault_of_the_identity(operator: Credentials) -> None:
    error = error_of(clients("127.0.0.1:1", "--identity", str(operator.folder)), 4)
    assert error["reason"] == "UNREACHABLE"
