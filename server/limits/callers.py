"""What one identity may take: calls a minute, by their kind, and connections at a time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from fednot.errors import FednotError, Reason
from server.limits.rates import Rate
from server.records import Caller
from server.services.permissions import ENROLMENT, method_name

_DELETIONS: Final = "/fednot.v1.DeletionService/"
_OPERATOR: Final = "/fednot.v1.OperatorService/"
DECISIVE: Final = frozenset(
    {
        f"{_DELETIONS}Unlearn",
        f"{_DELETIONS}CancelDeletion",
        f"{_DELETIONS}LiftHold",
        f"{_OPERATOR}ReadmitClient",
        f"{_OPERATOR}StartTraining",
        f"{_OPERATOR}StopTraining",
        "/fednot.v1.ApprovalService/Approve",
        "/fednot.v1.ApprovalService/Refuse",
        "/fednot.v1.AuditService/DestroyPseudonym",
        "/fednot.v1.ReceiptService/RotateReceiptKey",
        "/fednot.v1.IdentityService/CreateToken",
        "/fednot.v1.IdentityService/CreateConsoleLink",
    }
)
"""Calls that begin or end something, of which the server keeps an entry for ever."""
JOIN: Final = "/fednot.v1.FederationService/Join"
CONNECTION_RETRY: Final = 5.0


@dataclass(frozen=True)
class CallLimits:
    """How many calls of one identity, and enrolments of all, in a minute, and how many connections
    one identity may call over at a time.
    """

    requests: int = 6000
    deletions: int = 60
    joins: int = 60
    enrolments: int = 120
    connections: int = 32


class CallerLimits:
    """Judges each call before it is served. Thread-safe.

    Over plaintext nobody has an identity, so nothing is counted; that is loopback only.
    """

    def __init__(self, limits: CallLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._requests = Rate(limits.requests, clock)
        self._deletions = Rate(limits.deletions, clock)
        self._joins = Rate(limits.joins, clock)
        self._enrolments = Rate(limits.enrolments, clock)
        self._calls: dict[str, Counter[Hashable]] = {}
        self._lock = threading.Lock()

    def check(self, method: str, caller: Caller) -> None:
        """Counts a call. Raises FednotError (TOO_MANY_REQUESTS) that says when to come again."""
        if method in ENROLMENT:
            self._take(self._enrolments, "", "all machines together may enrol", "")
        if caller.role is None:
            return
        who = f"{caller.key} may call"
        self._take(self._requests, caller.key, who, "")
        if method in DECISIVE:
            self._take(self._deletions, caller.key, who, f" {method_name(method)} and the like")
        if method == JOIN:
            self._take(self._joins, caller.key, f"{caller.key} may join", "")

    @contextmanager
    def calling(self, caller: Caller, connection: Hashable) -> Iterator[None]:
        """Counts a connection as in use for the length of a call.

        Raises FednotError (TOO_MANY_CONNECTIONS) if the identity calls over too many others.
        """
        if caller.role is None:
            yield
            return
        key = caller.key
        with self._lock:
            calls = self._calls.setdefault(key, Counter())
            if connection not in calls and len(calls) >= self._limits.connections:
                raise FednotError(
                    Reason.TOO_MANY_CONNECTIONS,
                    f"{key} calls over {len(calls)} connections at a time, and may over no more",
                    retry_after=CONNECTION_RETRY,
                )
            calls[connection] += 1
        try:
            yield
        finally:
            with self._lock:
                calls[connection] -= 1
                if not calls[connection]:
                    del calls[connection]
                if not calls and self._calls.get(key) is calls:
                    del self._calls[key]

    def _take(self, rate: Rate, key: str, who: str, what: str) -> None:
        wait = rate.take(key)
        if wait:
            raise FednotError(
                Reason.TOO_MANY_REQUESTS,
                f"{who}{what} {rate.per_minute} times a minute at most; once more in {wait:.1f} s",
                retry_after=wait,
            )
