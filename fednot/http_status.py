"""The small HTTP side door of server and client: GET /metrics and GET /healthz, nothing else."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

READ_TIMEOUT: Final = 5.0
REQUEST_DEADLINE: Final = 15.0
MAX_REQUESTS_AT_ONCE: Final = 8

_log = logging.getLogger("fednot.http")


@dataclass(frozen=True)
class Health:
    """Whether a process does its work, and what it waits for if it does not."""

    ok: bool
    detail: Mapping[str, str]


Render = Callable[[], tuple[bytes, str]]
HealthCheck = Callable[[], Health]


class StatusServer:
    """Answers scrapes and health probes from daemon threads until it is stopped.

    `render` gives the metrics' bytes and their content type. Requests are bounded in number and in
    time; one too many is closed unanswered. Raises ValueError for an address that is not HOST:PORT.
    """

    def __init__(self, address: str, render: Render, health: HealthCheck) -> None:
        self._address = _host_and_port(address)
        self._render = render
        self._health = health
        self._http: _BoundedServer | None = None

    def start(self) -> None:
        """Binds and begins to answer. Raises OSError, with what to do, if the port is taken."""
        host, port = self._address
        try:
            self._http = _BoundedServer(self._address, self._render, self._health)
        except OSError as error:
            raise OSError(
                f"cannot listen on {host}:{port} for /metrics and /healthz: "
                f"{error.strerror or error}; give another --http-address, or an empty one for none"
            ) from error
        thread = threading.Thread(
            target=self._http.serve_forever, args=(0.1,), name="fednot-http", daemon=True
        )
        thread.start()

    @property
    def port(self) -> int:
        """The port that is bound; the one asked for before `start`."""
        return self._http.server_address[1] if self._http else self._address[1]

    def stop(self) -> None:
        """Stops listening; calling it twice does no harm."""
        if self._http is not None:
            http, self._http = self._http, None
            http.shutdown()
            http.server_close()


class _BoundedServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    server_address: tuple[str, int]

    def __init__(self, address: tuple[str, int], render: Render, health: HealthCheck) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.render = render
        self.health = health
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS_AT_ONCE)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer would ask the DNS for this host's name here, which may take seconds.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        cut = threading.Timer(REQUEST_DEADLINE, _cut, (request,))
        cut.daemon = True
        cut.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            cut.cancel()
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a status request broke off", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _BoundedServer
    server_version = "fednot"
    sys_version = ""
    timeout = READ_TIMEOUT

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        answers = {"/metrics": self._metrics, "/healthz": self._healthz}
        if path not in answers:
            self._answer(HTTPStatus.NOT_FOUND, b"ask for /metrics or /healthz\n", "text/plain")
            return
        try:
            status, body, content_type = answers[path]()
        except Exception:
            _log.exception("%s failed", path)
            status, body, content_type = (
                HTTPStatus.INTERNAL_SERVER_ERROR,
                b"see the log\n",
                "text/plain",
            )
        self._answer(status, body, content_type)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers in plain text; every method but GET is 405 (the base class says 501)."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "only GET is answered here"
        text = message or HTTPStatus(code).phrase
        self._answer(HTTPStatus(code), f"{text}\n".encode(), "text/plain")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        _log.debug(format, *args)

    def _metrics(self) -> tuple[HTTPStatus, bytes, str]:
        body, content_type = self.server.render()
        return HTTPStatus.OK, body, content_type

    def _healthz(self) -> tuple[HTTPStatus, bytes, str]:
        health = self.server.health()
        body = json.dumps({"ok": health.ok, "detail": dict(health.detail)}).encode() + b"\n"
        status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
        return status, body, "application/json"

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _cut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is no address; write HOST:PORT, such as 127.0.0.1:9464")
    return host.removeprefix("[").removesuffix("]"), int(port)
