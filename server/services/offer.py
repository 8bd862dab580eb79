"""What a session is offered at its join: how to encode updates, where to send them, how to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fednot.codecs import Codec, codec_of
from fednot.codecs.none import Plain
from fednot.codecs.topk import DEFAULT_FRACTION
from fednot.errors import FednotError, Reason
from fednot.v1 import federation_pb2, model_pb2
from fednot.wire import codec_name, codec_value

MASKED: Final = "masked"


def _no_port() -> int:
    return 0


@dataclass(frozen=True)
class SessionOffer:
    """The codecs that the server allows by name ("none" always is), seconds between heartbeats.

    `data_port` gives the port of the data channel, 0 if there is none. If updates are `masked`, no
    other is taken.
    """

    heartbeat_interval: float
    codecs: frozenset[str] = frozenset()
    top_k_fraction: float = DEFAULT_FRACTION
    data_port: Callable[[], int] = _no_port
    masked: bool = False

    def codec_for(self, wanted: Sequence[model_pb2.UpdateCodec.ValueType]) -> Codec:
        """The first of the client's codecs that is allowed; "none" if none is.

        Raises FednotError (MASKING_REQUIRED) for a client that cannot mask where it must.
        """
        names = [codec_name(value) for value in wanted]
        if self.masked and MASKED not in names:
            raise FednotError(
                Reason.MASKING_REQUIRED,
                "this federation aggregates securely, and the client cannot mask its updates",
            )
        if self.masked:
            return codec_of(MASKED)
        for name in names:
            if name in self.codecs:
                return codec_of(name, self.top_k_fraction)
        return Plain()

    def write(self, response: federation_pb2.JoinResponse, codec: Codec) -> None:
        """Writes what a session got into the answer to its join."""
        response.heartbeat_interval.FromNanoseconds(int(self.heartbeat_interval * 1e9))
        response.codec = codec_value(codec.name)
        if codec.name == "topk":
            response.top_k_fraction = self.top_k_fraction
        response.data_port = self.data_port()
