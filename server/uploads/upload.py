"""One connection's hold on an update that it brings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.v1 import federation_pb2
from fednot.wire import longest_transfer
from server.cohorts.remote import Assignment, Session
from server.fences import Fences
from server.uploads.arrival import Arrival

PACE_SECONDS: Final = 10.0
SLOW_RETRY: Final = 30.0


class Upload:
    """What a connection sends for a piece of work. A newer connection takes the arrival over."""

    def __init__(
        self,
        header: federation_pb2.UpdateHeader,
        session: Session,
        assignment: Assignment,
        fences: Fences,
        least: float = 0.0,
    ) -> None:
        """`least` is the fewest bytes a second, over PACE_SECONDS, at which it may come."""
        self.header: Final = header
        self.session: Final = session
        self.assignment: Final = assignment
        self.arrival: Arrival | None = None
        self._fences = fences
        self._until = time.monotonic() + longest_transfer(header.num_bytes)
        self._least = least
        self._mark = (0, time.monotonic())

    @property
    def offset(self) -> int:
        """The byte from which on the sender is to send."""
        return self.held().received

    def holds(self, arrival: Arrival) -> None:
        """Takes an arrival over from whatever connection brought it before."""
        self.arrival = arrival
        arrival.pass_to(self)
        arrival.pace(time.monotonic())
        self._mark = (arrival.received, time.monotonic())

    def held(self) -> Arrival:
        """The arrival. Raises FednotError (UPLOAD_REPLACED) if a newer connection has it."""
        if self.arrival is None or self.arrival.holder is not self:
            raise FednotError(Reason.UPLOAD_REPLACED, "a newer upload of this work has begun")
        return self.arrival

    @contextmanager
    def saying_why(self) -> Iterator[None]:
        """An arrival is closed when its work ends, too: then that is what the sender is told."""
        try:
            yield
        except FednotError as error:
            if error.reason is Reason.UPLOAD_REPLACED:
                self.check()
            raise

    def check(self) -> Arrival:
        """The arrival, if more bytes may be taken, and marks the client as seen. Thread-safe.

        Raises FednotError: CLIENT_BARRED, ROUND_OVER, UPLOAD_REPLACED, SLOW_SENDER.
        """
        self.assignment.check_fence(self._fences)
        self.assignment.check_open()
        arrival = self.held()
        now = time.monotonic()
        if now > self._until:
            raise FednotError(
                Reason.SLOW_SENDER,
                f"only {arrival.received} of {arrival.num_bytes} bytes came in the longest time "
                "that an upload may take",
            )
        self._check_pace(arrival.received, now)
        self.session.last_seen = now
        return arrival

    def _check_pace(self, received: int, now: float) -> None:
        before, since = self._mark
        if now - since < PACE_SECONDS:
            return
        self._mark = (received, now)
        pace = (received - before) / (now - since)
        if pace < self._least:
            raise FednotError(
                Reason.SLOW_SENDER,
                f"the update came at {pace:.0f} bytes/s for {now - since:.0f} s; the slowest that "
                f"is taken is {self._least:g}",
                retry_after=SLOW_RETRY,
            )
