"""HTTP of one connection by uvicorn, with the certificate that it shows and an end in time."""

from __future__ import annotations

import asyncio
import ssl
from http import HTTPStatus
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CERTIFICATE: Final = "certificate"
"""Where a request's state has the certificate of its connection, as PEM; None without one."""
CONNECTION_SECONDS: Final = 60.0
LAST_SECONDS: Final = 30.0
MOST_HEADERS: Final = 16 << 10
TOO_MUCH: Final = b"the request's headers are too large\n"


class ConsoleProtocol(H11Protocol):
    """Ends a connection after CONNECTION_SECONDS, or LAST_SECONDS later if a request is served.

    So whoever sends slowly, reads slowly or says nothing holds a place no longer than that.
    """

    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the certificate of the connection and starts its clock."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, CERTIFICATE: _certificate(transport)}
        self._end = self.loop.call_later(CONNECTION_SECONDS, self._finish)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock."""
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answers 431, as the application does, if headers had no end after MOST_HEADERS bytes."""
        unread, _ = self.conn.trailing_data
        if len(unread) <= MOST_HEADERS:
            super().send_400_response(msg)
            return
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        headers = {"content-type": "text/plain; charset=utf-8", "connection": "close"}
        answer = h11.Response(
            status_code=status, headers=list(headers.items()), reason=status.phrase
        )
        for event in (answer, h11.Data(data=TOO_MUCH), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _finish(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
            return
        self.shutdown()
        self._end = self.loop.call_later(LAST_SECONDS, self.transport.abort)


def _certificate(transport: asyncio.Transport) -> bytes | None:
    tls: Any = transport.get_extra_info("ssl_object")
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    return ssl.DER_cert_to_PEM_cert(der).encode() if der else None
