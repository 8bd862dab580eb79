"""The images' health check, as a process, against real HTTP and gRPC servers."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fednot.identity.authority import Authority
from fednot.identity.folder import read_credentials

HEALTHCHECK = Path(__file__).parents[2] / "deploy" / "healthcheck.py"
PATIENT = """
import runpy, sys
found = runpy.run_path(sys.argv[1])
found["ask"].__globals__["TIMEOUT_SECONDS"] = 60.0
sys.exit(found["main"](int(sys.argv[2])))
"""
"""The check with more than its 4 s, which are for servers that are not busy with tests."""


@contextmanager
def answering(status: int) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()
            self.wfile.write(b"coordinator alive")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextmanager
def serving(directory: Path, *, healthy: bool) -> Iterator[str]:
    """gRPC's health service with the server's identity of an authority, over mutual TLS."""
    own = read_credentials(directory / "server")
    tls = grpc.ssl_server_credentials(
        [(own.private_key, own.chain)], own.trust, require_client_auth=True
    )
    said = health.HealthServicer()
    status = health_pb2.HealthCheckResponse
    said.set("", status.SERVING if healthy else status.NOT_SERVING)
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(said, server)
    port = server.add_secure_port("127.0.0.1:0", tls)
    server.start()
    yield f"0.0.0.0:{port}"
    server.stop(0).wait(10)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The server's name in it is not the address at which the check dials it."""
    return Authority.create(tmp_path / "authority", hosts=["fed.example.org"]).directory


def check(
    port: int, program: Sequence[str] = ("-c", PATIENT, str(HEALTHCHECK)), **settings: str
) -> tuple[int, str]:
    environment = {"http_proxy": "http://127.0.0.1:1", "PATH": "", **settings}
    done = subprocess.run(
        [sys.executable, *program, str(port)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=environment,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("status", "code"), [(200, 0), (204, 1), (404, 1), (503, 1)])
def test_only_a_200_is_healthy(status: int, code: int) -> None:
    with answering(status) as port:
        returned, said = check(port)
    assert returned == code
    assert str(status) in said


def test_a_closed_port_is_unhealthy_and_says_so() -> None:
    with answering(200) as port:
        pass
    returned, said = check(port, [str(HEALTHCHECK)])
    assert returned == 1
    assert f"no answer on port {port}" in said


@pytest.mark.parametrize(("healthy", "code"), [(True, 0), (False, 1)])
def test_the_health_service_is_asked_with_the_servers_own_identity(
    authority: Path, healthy: bool, code: int
) -> None:
    with answering(200) as port, serving(authority, healthy=healthy) as address:
        returned, said = check(
            port, FEDNOT_SERVER_ADDRESS=address, FEDNOT_SERVER_AUTHORITY=str(authority)
        )
    assert returned == code, said
    assert "gRPC SERVING" in said if healthy else "gRPC not serving" in said


def test_a_server_with_another_certificate_is_unhealthy(authority: Path, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", hosts=["fed.example.org"]).server_folder
    with answering(200) as port, serving(authority, healthy=True) as address:
        returned, said = check(
            port, FEDNOT_SERVER_ADDRESS=address, FEDNOT_SERVER_IDENTITY=str(other)
        )
    assert returned == 1
    assert "UNAVAILABLE" in said


def test_an_identity_that_cannot_be_read_is_unhealthy(tmp_path: Path) -> None:
    with answering(200) as port:
        returned, said = check(
            port, FEDNOT_SERVER_ADDRESS="0.0.0.0:1", FEDNOT_SERVER_IDENTITY=str(tmp_path)
        )
    assert returned == 1
    assert str(tmp_path) in said


def test_plaintext_is_asked_in_plaintext() -> None:
    with answering(200) as port, answering(200) as other:
        returned, said = check(
            port, FEDNOT_SERVER_ADDRESS=f"127.0.0.1:{other}", FEDNOT_SERVER_INSECURE="true"
        )
    assert returned == 1, "it is no gRPC server"
    assert f"no answer on 127.0.0.1:{other}" in said
