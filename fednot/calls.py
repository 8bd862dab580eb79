"""Which call a line of a log, or a piece of work, goes back to: its call id and its trace.

A call id names one command of whoever called, through server and clients. It is for finding lines
of logs, decides nothing, and is not the request id of a deletion, which makes a request repeatable.
What comes from outside is taken only if it is well formed, so that no log line can be forged.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog

from fednot import tracing
from fednot.v1 import federation_pb2

CALL_ID_KEY: Final = "x-request-id"
"""The call's metadata: what proxies and other services call it."""

CALL_ID_FIELD: Final = "call_id"
_CALL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Origin:
    """Where work comes from: a call id, and the W3C traceparent of the span that asked for it; each
    "" if there is none.
    """

    call_id: str = ""
    traceparent: str = ""

    def message(self) -> federation_pb2.Origin | None:
        """As it goes with work and updates; None if there is nothing to tell."""
        if self == Origin():
            return None
        return federation_pb2.Origin(call_id=self.call_id, traceparent=self.traceparent)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """As it goes with a call."""
        pairs = ((CALL_ID_KEY, self.call_id), (tracing.TRACEPARENT_KEY, self.traceparent))
        return tuple((key, value) for key, value in pairs if value)


def new_id() -> str:
    """A new call id."""
    return uuid.uuid4().hex


def checked(call_id: str, traceparent: str = "") -> Origin:
    """What was told from outside, without what is not well formed."""
    return Origin(
        call_id if _CALL_ID.fullmatch(call_id) else "",
        traceparent if tracing.is_traceparent(traceparent) else "",
    )


def of_message(message: federation_pb2.Origin) -> Origin:
    """What came with work or an update."""
    return checked(message.call_id, message.traceparent)


def of_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> Origin:
    """What came with a call; a key that came twice counts once."""
    found = {key: value for key, value in metadata or () if isinstance(value, str)}
    return checked(found.get(CALL_ID_KEY, ""), found.get(tracing.TRACEPARENT_KEY, ""))


def current() -> Origin:
    """Where the work of the running task comes from."""
    call_id = structlog.contextvars.get_contextvars().get(CALL_ID_FIELD, "")
    return Origin(str(call_id), tracing.traceparent())


def begin(origin: Origin, **fields: Any) -> None:
    """Binds an origin, and fields of log lines, in place of what was bound, until the next call or
    the end of the running task.
    """
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(call_id=origin.call_id, **fields)
    tracing.begin(origin.traceparent)


@contextmanager
def bound(origin: Origin, **fields: Any) -> Iterator[None]:
    """Binds an origin, and fields of its log lines, for a block."""
    named = {CALL_ID_FIELD: origin.call_id} if origin.call_id else {}
    with (
        structlog.contextvars.bound_contextvars(**named, **fields),
        tracing.within(origin.traceparent),
    ):
        yield
