"""Links that open the console once, and the sessions of browsers that came by one."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fednot.errors import REMEDY_KEY, FednotError, Reason

LINK_SECONDS: Final = 120.0
SESSION_SECONDS: Final = 8 * 3600.0
IDLE_SECONDS: Final = 3600.0
MOST_LINKS: Final = 1000
MOST_SESSIONS: Final = 1000
MOST_OF_ONE: Final = 8
"""Links and sessions of one identity: the oldest makes room."""
_REMEDY: Final = "Make a new link: `fednot console`."


@dataclass(frozen=True)
class Pass:
    """Whom a link or session was made for: the certificate as PEM, and the key of its holder.

    `ends_at` is in seconds of the clock that the desk goes by.
    """

    certificate: bytes
    holder: str
    ends_at: float


@dataclass(frozen=True)
class Session:
    """A browser's session: `secret` is for its cookie, and the server keeps only the digest."""

    secret: str
    ends_in: float


class SessionDesk:
    """Makes links and trades each once for a session. Thread-safe; a restart ends them all.

    Only digests of what it hands out are kept. Whether a certificate still holds is for the door
    to say, at each request.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._links: OrderedDict[str, Pass] = OrderedDict()
        self._sessions: OrderedDict[str, tuple[Pass, float]] = OrderedDict()
        self.port = 0
        """Where the console is served; 0 if it is not."""

    def link(self, certificate: bytes, holder: str) -> str:
        """A one-time code for the holder of a certificate, good for LINK_SECONDS."""
        code = secrets.token_urlsafe(32)
        with self._lock:
            now = self._clock()
            self._forget_old(now)
            own = [key for key, kept in self._links.items() if kept.holder == holder]
            for key in own[: max(0, len(own) - MOST_OF_ONE + 1)]:
                del self._links[key]
            self._links[_digest(code)] = Pass(certificate, holder, now + LINK_SECONDS)
            while len(self._links) > MOST_LINKS:
                self._links.popitem(last=False)
        return code

    def trade(self, code: str) -> Session:
        """A session for a code, which is spent by that.

        Raises FednotError (INVALID_TOKEN) for one that is unknown, spent or too old.
        """
        with self._lock:
            now = self._clock()
            self._forget_old(now)
            found = self._links.pop(_digest(code), None)
            if found is None:
                raise FednotError(
                    Reason.INVALID_TOKEN,
                    "this link is not good, was used before, or is older than "
                    f"{LINK_SECONDS / 60:.0f} minutes",
                    metadata={REMEDY_KEY: _REMEDY},
                )
            secret = secrets.token_urlsafe(32)
            own = [key for key, (kept, _) in self._sessions.items() if kept.holder == found.holder]
            for key in own[: max(0, len(own) - MOST_OF_ONE + 1)]:
                del self._sessions[key]
            kept = Pass(found.certificate, found.holder, now + SESSION_SECONDS)
            self._sessions[_digest(secret)] = (kept, now)
            while len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return Session(secret, SESSION_SECONDS)

    def certificate_of(self, secret: str, *, by_hand: bool) -> bytes | None:
        """The certificate behind a session; None if it has ended or there is none.

        Only what somebody asked `by_hand`, and not a page that refreshes itself, keeps it from
        ending after IDLE_SECONDS.
        """
        key = _digest(secret)
        with self._lock:
            now = self._clock()
            self._forget_old(now)
            if key not in self._sessions:
                return None
            found, _ = self._sessions[key]
            if by_hand:
                self._sessions[key] = (found, now)
            return found.certificate

    def end(self, secret: str) -> None:
        """Ends a session; one that has ended does no harm."""
        with self._lock:
            self._sessions.pop(_digest(secret), None)

    def _forget_old(self, now: float) -> None:
        for key in [key for key, kept in self._links.items() if kept.ends_at <= now]:
            del self._links[key]
        over = [
            key
            for key, (kept, used) in self._sessions.items()
            if kept.ends_at <= now or used + IDLE_SECONDS <= now
        ]
        for key in over:
            del self._sessions[key]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
