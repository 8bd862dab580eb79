"""How large a message may be before it is parsed: what it would become is many times its size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fednot import chunk_messages
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.wire import manifest_message
from server.limits.callers import JOIN

CONTROL_BYTES: Final = 256 << 10
ROSTER_BYTES: Final = 1 << 20
_MASKING: Final = "/fednot.v1.SecureAggregationService/"


@dataclass(frozen=True)
class Oversized:
    """In place of a message that was not parsed."""

    error: FednotError


class MessageSizes:
    """The largest message of each method, in bytes; a join's follows from the model's manifest."""

    def __init__(self, manifest: Manifest, most: int) -> None:
        self._most = most
        self._join = CONTROL_BYTES + 4 * manifest_message(manifest).ByteSize()

    def of(self, method: str) -> int:
        """How large a message of a method may be."""
        if method == chunk_messages.UPLOAD:
            return self._most
        if method == JOIN:
            return min(self._join, self._most)
        return min(ROSTER_BYTES if method.startswith(_MASKING) else CONTROL_BYTES, self._most)

    def reader(self, method: str, parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
        """Parses a method's messages; of one that is too large it gives Oversized."""
        most = self.of(method)
        reason = Reason.MANIFEST_TOO_LARGE if method == JOIN else Reason.INVALID_REQUEST

        def read(message: bytes) -> Any:
            if len(message) > most:
                told = f"the message has {len(message)} bytes; {method} takes {most} at most"
                return Oversized(FednotError(reason, told))
            return parse(message) if parse else message

        return read
