"""Moments as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

_SPAN: Final = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS_OF: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def timestamp(text: str) -> Timestamp:
    """A moment as a message: a date or time of ISO 8601 (UTC if it names no zone), or 30d, 12h, 90m
    or 45s from now. Raises ValueError with a sentence for anything else.
    """
    found = _SPAN.fullmatch(text)
    message = Timestamp()
    try:
        if found:
            at = datetime.now(UTC) + timedelta(seconds=int(found[1]) * _SECONDS_OF[found[2]])
        else:
            at = datetime.fromisoformat(text)
        message.FromDatetime(at if at.tzinfo else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time; write 2027-01-31, 2027-01-31T12:00:00Z, or 30d from now"
        ) from None
    return message
