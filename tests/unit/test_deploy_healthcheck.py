"""The images' health check, as a process, against a real HTTP server."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

HEALTHCHECK = Path(__file__).parents[2] / "deploy" / "healthcheck.py"


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


def check(port: int) -> tuple[int, str]:
    environment = {"http_proxy": "http://127.0.0.1:1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, HEALTHCHECK, str(port)],
        capture_output=True,
        text=True,
        timeout=30,
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
    returned, said = check(port)
    assert returned == 1
    assert f"no answer on port {port}" in said
