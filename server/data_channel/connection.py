"""One connection of the data channel: its handshake, its requests, what it is told in the end."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from typing import Final

from fednot.data_link import DataLink, LinkClosedError
from fednot.data_messages import DataMessageError, request_in
from fednot.errors import FednotError, Reason
from fednot.rpc_errors import to_status
from fednot.v1 import data_channel_pb2
from fednot.wire import MESSAGE_SECONDS
from server.data_channel.event_loop import EventLoop
from server.data_channel.transfers import Call, Transfers
from server.services.door import Door

HANDSHAKE_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 300.0
REFUSAL_SECONDS: Final = 5.0
UNREAD: Final = "/fednot.v1.DataChannel/Request"
"""How the audit calls a request that could not be read."""
_METHODS: Final = {
    "download": "/fednot.v1.FederationService/DownloadModel",
    "upload": "/fednot.v1.FederationService/UploadUpdate",
}

log = logging.getLogger("server.data_channel")


class Connection:
    """Serves one request after another, in a thread of its own; any thread may cut it.

    `idle_since` is on the monotonic clock, None while a request is served.
    """

    def __init__(
        self,
        link: DataLink,
        context: Callable[[], ssl.SSLContext | None],
        loop: EventLoop,
        door: Door,
        transfers: Transfers,
    ) -> None:
        self.idle_since: float | None = None
        self.is_cut = False
        self._link = link
        self._context = context
        self._loop = loop
        self._door = door
        self._transfers = transfers
        self._drain = False

    def cut(self) -> None:
        """Ends it at once."""
        self.is_cut = True
        self._link.cut()

    def abandon(self) -> None:
        """Closes it before a thread serves it."""
        self._link.close()

    def serve(self) -> None:
        """Serves until either side ends the connection."""
        self._guarded(self._serve)

    def turn_away(self, refusal: FednotError) -> None:
        """Tells the client why it is not served."""
        self._guarded(
            lambda: self._refuse(UNREAD, refusal, Call(self._link, self._link.certificate()))
        )

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            self._secure()
            work()
        except OSError as error:
            log.debug("a data connection ended: %s", error)
        except Exception:
            log.exception("a data connection failed")
        finally:
            self._link.close(drain=self._drain)

    def _secure(self) -> None:
        context = self._context()
        if context is not None:
            self._link.secure(context, time.monotonic() + HANDSHAKE_SECONDS)

    def _serve(self) -> None:
        pem = self._link.certificate()
        going_on = True
        while going_on and not self.is_cut:
            self.idle_since = time.monotonic()
            if not self._link.rest(IDLE_SECONDS):
                return
            self.idle_since = None
            going_on = self._served(Call(self._link, pem))

    def _served(self, call: Call) -> bool:
        """Serves a request; False if the connection is to end."""
        method = UNREAD
        try:
            request = request_in(self._link.receive(time.monotonic() + MESSAGE_SECONDS))
            kind = request.WhichOneof("transfer") or ""
            method = _METHODS[kind]
            if kind == "download":
                self._transfers.download(call, request.download)
            else:
                self._transfers.upload(call, request.upload)
        except OSError:
            raise
        except DataMessageError as error:
            self._refuse(method, FednotError(Reason.INVALID_STREAM, str(error)), call)
            return False
        except Exception as error:
            self._refuse(method, error, call)
            return call.in_step
        return True

    def _refuse(self, method: str, error: Exception, call: Call) -> None:
        noted = self._door.refused(method, error, call.pem)
        told = self._loop.run(noted, lambda: None, seconds=REFUSAL_SECONDS)
        if not call.answerable:
            raise LinkClosedError(f"the download was cut: {told.message}")
        self._drain = True
        status = to_status(told).SerializeToString()
        refusal = data_channel_pb2.DataRefusal(status=status)
        call.answer(data_channel_pb2.DataResponse(refusal=refusal))
