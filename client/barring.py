"""Whether the server bars this client from training, told to the log once."""

from __future__ import annotations

import logging
from collections.abc import Callable

from client.metrics import ClientMetrics
from fednot.v1 import federation_pb2

_log = logging.getLogger("client")


class Barring:
    """The last word on whether this client may train; `forget` is called when it no longer may."""

    def __init__(self, metrics: ClientMetrics, forget: Callable[[], None]) -> None:
        self._metrics = metrics
        self._forget = forget
        self._request_id: str | None = None

    @property
    def stands(self) -> bool:
        """True while the client is barred."""
        return self._request_id is not None

    def told(self, barred: federation_pb2.Barred) -> None:
        """The server says so; each deletion request is logged once."""
        if self._request_id == barred.request_id:
            return
        self._request_id = barred.request_id
        self._forget()
        self._metrics.barred(True)
        since = f" since {barred.since.ToJsonString()}" if barred.HasField("since") else ""
        _log.warning(
            "barred from training%s by request %s: %s "
            "(this client goes on polling, to evaluate when asked)",
            since,
            barred.request_id,
            " ".join(barred.message.split()),
        )

    def lifted(self) -> None:
        """The server gives training work, or joined the client without a bar."""
        if self.stands:
            self._request_id = None
            self._metrics.barred(False)
            _log.info("no longer barred from training")
