"""The clients as one fleet: sums of what they did and counts of what they are, without a name."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import astuple, dataclass
from typing import Final, Self

from fednot.errors import FednotError, Reason
from fednot.v1 import federation_pb2
from server.cohorts.remote import Session
from server.metrics.fleet import DEVICES, OTHER, FleetMetrics

MOST: Final = 1 << 48
"""No honest process counts so far, and sums of such counts are exact."""
MOST_TRAININGS: Final = 32
LONGEST_PROCESS: Final = 32
_VERSION: Final = re.compile(r"\d{1,4}(\.\d{1,4}){1,3}((a|b|rc|\.dev|\.post)\d{1,4})?")


@dataclass(frozen=True)
class Counts:
    """What a client's process has counted since it started."""

    reconnects: int = 0
    examples: int = 0
    trainings: int = 0

    @classmethod
    def told(cls, message: federation_pb2.ClientCounts) -> Self:
        """What a message tells. Raises FednotError (INVALID_REQUEST) for what cannot be."""
        counts = cls(message.reconnects, message.examples, message.trainings)
        if max(astuple(counts)) > MOST:
            raise FednotError(Reason.INVALID_REQUEST, f"activity: no count is above {MOST}")
        return counts

    def beyond(self, other: Counts) -> Counts:
        """What was counted since another was taken; what is less than there counts as 0."""
        return Counts(*(max(0, a - b) for a, b in zip(astuple(self), astuple(other), strict=True)))

    def most(self, other: Counts) -> Counts:
        """The larger of each."""
        return Counts(*map(max, astuple(self), astuple(other)))


class Fleet:
    """Adds up what clients did, each thing once, whoever reconnects or restarts in between."""

    def __init__(self, metrics: FleetMetrics) -> None:
        self._metrics = metrics
        self._seen: dict[str, tuple[bytes, Counts]] = {}

    def told(self, client: str, message: federation_pb2.ClientActivity) -> None:
        """Takes what a client's process tells. Raises FednotError (INVALID_REQUEST) for what cannot
        be, which changes nothing.
        """
        counted, acknowledged = Counts.told(message.counted), Counts.told(message.acknowledged)
        _check(message)
        process, seen = self._seen.get(client, (b"", acknowledged))
        if process != message.process:  # another process, or this server is new to it
            seen = acknowledged
        new = counted.beyond(seen)
        self._seen[client] = (message.process, counted.most(seen))
        newest = message.train_seconds[-new.trainings :] if new.trainings else ()
        self._metrics.did(new.reconnects, new.examples, newest)


def _check(message: federation_pb2.ClientActivity) -> None:
    if not 0 < len(message.process) <= LONGEST_PROCESS:
        raise FednotError(
            Reason.INVALID_REQUEST, f"activity.process: has from 1 to {LONGEST_PROCESS} bytes"
        )
    if len(message.train_seconds) > MOST_TRAININGS:
        raise FednotError(
            Reason.INVALID_REQUEST, f"activity.train_seconds: has at most {MOST_TRAININGS} entries"
        )
    if not all(math.isfinite(each) and each >= 0 for each in message.train_seconds):
        raise FednotError(
            Reason.INVALID_REQUEST, "activity.train_seconds: each is 0 or more, and finite"
        )


def show(metrics: FleetMetrics, sessions: Collection[Session], barred: int) -> None:
    """Shows what the connected clients are, so many of them barred."""
    metrics.show_devices(Counter(device_kind(each.device) for each in sessions))
    metrics.show_versions(Counter(version_of(each.software_version) for each in sessions))
    metrics.show_ailing(degraded=sum(each.degraded for each in sessions), barred=barred)
    silence = max((time.monotonic() - each.last_seen for each in sessions), default=None)
    metrics.show_oldest(0.0 if silence is None else time.time() - silence)


def device_kind(device: str) -> str:
    """One of DEVICES: a client's own word is no label."""
    kind = device.partition(":")[0]
    return kind if kind in DEVICES else OTHER


def version_of(text: str) -> str:
    """A version if it is written like one: a client's own word is no label."""
    return text if _VERSION.fullmatch(text) else OTHER
