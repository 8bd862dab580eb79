"""The status server over real sockets: two paths, one method, bounded."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fednot import http_status
from fednot.http_status import Health, StatusServer


class Probe:
    def __init__(self) -> None:
        self.health = Health(True, {"waiting_for": "work"})
        self.body = b"fednot_up 1\n"

    def render(self) -> tuple[bytes, str]:
        if not self.body:
            raise RuntimeError("nothing to render")
        return self.body, "text/plain; version=0.0.4"


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def server(probe: Probe) -> Iterator[StatusServer]:
    server = StatusServer("127.0.0.1:0", probe.render, lambda: probe.health)
    server.start()
    yield server
    server.stop()


def ask(server: StatusServer, method: str, path: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers.get("Content-Type", ""), body


def status_within(server: StatusServer, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask(server, "GET", "/metrics")[0]
        except (http.client.HTTPException, ConnectionError):
            if time.monotonic() > deadline:
                raise


def test_metrics_are_what_render_gives(server: StatusServer) -> None:
    assert ask(server, "GET", "/metrics?x=1") == (
        200,
        "text/plain; version=0.0.4",
        b"fednot_up 1\n",
    )


def test_health_is_200_or_503_with_the_detail(server: StatusServer, probe: Probe) -> None:
    status, content_type, body = ask(server, "GET", "/healthz")
    assert (status, content_type) == (200, "application/json")
    assert json.loads(body) == {"ok": True, "detail": {"waiting_for": "work"}}
    probe.health = Health(False, {"waiting_for": "the server"})
    status, _, body = ask(server, "GET", "/healthz")
    assert status == 503
    assert json.loads(body)["detail"] == {"waiting_for": "the server"}


@pytest.mark.parametrize("path", ["/", "/metrics/", "/healthz/x", "/../etc/passwd"])
def test_other_paths_are_404(server: StatusServer, path: str) -> None:
    assert ask(server, "GET", path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"])
def test_other_methods_are_405(server: StatusServer, method: str) -> None:
    assert ask(server, method, "/metrics")[0] == 405


def test_a_failing_render_is_500_and_the_next_answers(server: StatusServer, probe: Probe) -> None:
    probe.body = b""
    assert ask(server, "GET", "/metrics")[0] == 500
    probe.body = b"x 1\n"
    assert ask(server, "GET", "/metrics")[0] == 200


def test_silent_callers_are_cut_and_do_not_block_for_ever(
    monkeypatch: pytest.MonkeyPatch, probe: Probe
) -> None:
    monkeypatch.setattr(http_status, "REQUEST_DEADLINE", 0.3)
    monkeypatch.setattr(http_status._Handler, "timeout", None)
    server = StatusServer("127.0.0.1:0", probe.render, lambda: probe.health)
    server.start()
    try:
        silent = [
            socket.create_connection(("127.0.0.1", server.port), timeout=30)
            for _ in range(http_status.MAX_REQUESTS_AT_ONCE + 2)
        ]
        assert [caller.recv(1) for caller in silent] == [b""] * len(silent)
        assert status_within(server, seconds=30) == 200
        for caller in silent:
            caller.close()
    finally:
        server.stop()


def test_a_taken_port_says_what_to_do(server: StatusServer, probe: Probe) -> None:
    second = StatusServer(f"127.0.0.1:{server.port}", probe.render, lambda: probe.health)
    with pytest.raises(OSError, match="give another --http-address, or an empty one for none"):
        second.start()


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", "localhost:x", "h:70000"])
def test_an_address_without_port_is_refused(address: str, probe: Probe) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        StatusServer(address, probe.render, lambda: probe.health)


def test_stopping_twice_is_harmless(probe: Probe) -> None:
    server = StatusServer("127.0.0.1:0", probe.render, lambda: probe.health)
    server.start()
    server.stop()
    server.stop()


def test_connections_wait_while_none_is_taken(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(
        http_status._BoundedServer, "process_request", lambda *_: goes_on.wait(60) and None
    )
    with ExitStack() as opened:
        opened.callback(goes_on.set)
        for _ in range(100):
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=3))
