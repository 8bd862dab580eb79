"""The audit: events, the log of refusals, and the destruction of a pseudonym."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from sqlalchemy import Connection

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.naming import CLIENT_NAME, JOB_ID
from server.phases import ENDED
from server.records import NOBODY, AuditEvent, AuditOutcome, Caller, JobPhase, Verification
from server.refusals import CLIENT_KEY
from server.state import audit_rows, client_rows, deletion_rows, pseudonym_rows, standing_rows
from server.state.commits import Commit
from server.state.database import Database

__all__ = ["AuditEvent", "AuditOutcome", "RefusalLog", "destroy_pseudonym", "note_job_end"]

log = logging.getLogger("server.audit")

T = TypeVar("T")
WINDOW: Final = 60.0
TICK: Final = 2.0
MOST_KINDS: Final = 16
"""How many kinds of refusal of one caller are told apart within a window."""
SEVERAL: Final = "several calls"


@dataclass(frozen=True)
class _Refusal:
    caller: Caller
    action: str
    reason: str
    subject: str
    job_id: str = ""


@dataclass
class _Window:
    """A kind of refusal since its first one, which is written; `repeats` are not yet."""

    ends_at: float
    repeats: int = 0
    last_at: float = field(default_factory=time.time)


class RefusalLog:
    """Writes refusals to the audit; repeats within `window` seconds share an entry.

    What one caller can have written is bounded: beyond MOST_KINDS kinds at once its refusals are
    counted by their reason alone, under the action "several calls".
    """

    def __init__(
        self,
        database: Database,
        *,
        window: float = WINDOW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._window = window
        self._clock = clock
        self._windows: dict[_Refusal, _Window] = {}
        self._writes: set[asyncio.Task[None]] = set()

    async def note(
        self, caller: Caller, action: str, reason: str, subject: str = "", job_id: str = ""
    ) -> None:
        """Notes a refusal: the first of its kind is written before this returns.

        `subject` is a name such as `client/c3`; what is no name, or that of nobody who is known, is
        left out, and so is what is no id of a job. A fault is logged and not raised, and what could
        not be written then is counted with the repeats.
        """
        who = Caller(caller.role, caller.name)
        about = subject if _is_name(subject) else ""
        job = job_id if JOB_ID.fullmatch(job_id) else ""
        kind = self._kind(_Refusal(who, action, reason, about, job))
        opened = self._windows.get(kind)
        if opened is not None:
            opened.repeats += 1
            opened.last_at = time.time()
            return
        opened = self._windows[kind] = _Window(self._clock() + self._window)
        await self._written(kind, 1, opened.last_at)

    async def run(self) -> None:
        """Writes repeats once their window is over, until it is cancelled."""
        while True:
            await asyncio.sleep(TICK)
            await self._close(self._clock())

    async def flush(self) -> None:
        """Writes every repeat that was counted so far."""
        await asyncio.gather(*self._writes)
        await self._close(float("inf"))

    async def forget(self, name: str, destroy: Callable[[Connection], T]) -> T:
        """Runs a command that destroys the pseudonym of a name, in one transaction with the
        repeats that were counted of it, so that none of them brings the name back afterwards.

        It ends even if whoever waits for it is cancelled. Raises what the command raises; the
        repeats are kept then.
        """
        return await asyncio.shield(asyncio.create_task(self._forget(name, destroy)))

    async def _forget(self, name: str, destroy: Callable[[Connection], T]) -> T:
        await asyncio.gather(*self._writes)
        about = [kind for kind in self._windows if name in (kind.caller.key, kind.subject)]
        counted = {kind: self._windows.pop(kind) for kind in about}

        def command(connection: Connection) -> T:
            for kind, opened in counted.items():
                if opened.repeats:
                    _append(connection, kind, opened.repeats, opened.last_at)
            return destroy(connection)

        try:
            return await self._database.write(Commit.PSEUDONYM_DESTROYED, command)
        except BaseException:
            for kind, opened in counted.items():
                self._keep(kind, opened.repeats)
            raise

    async def _close(self, now: float) -> None:
        for kind, opened in list(self._windows.items()):
            is_open = self._windows.get(kind) is opened  # or a name was destroyed meanwhile
            if opened.ends_at > now or not is_open:
                continue
            del self._windows[kind]
            if opened.repeats:
                await self._written(kind, opened.repeats, opened.last_at)

    def _keep(self, kind: _Refusal, repeats: int) -> None:
        again = self._windows.setdefault(kind, _Window(self._clock() + self._window))
        again.repeats += repeats

    async def _written(self, kind: _Refusal, count: int, at: float) -> None:
        """Writes an entry, or keeps its count, even if whoever waits for it is cancelled."""
        write = asyncio.create_task(self._write(kind, count, at))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.shield(write)

    async def _write(self, kind: _Refusal, count: int, at: float) -> None:
        try:
            await self._database.write(Commit.REFUSAL_NOTED, lambda c: _append(c, kind, count, at))
        except Exception:
            log.exception("a refusal could not be written to the audit")
            self._keep(kind, count)

    def _kind(self, refusal: _Refusal) -> _Refusal:
        if refusal in self._windows:
            return refusal
        counts = Counter(kind.caller for kind in self._windows)
        if counts[refusal.caller] < MOST_KINDS:
            return refusal
        return _Refusal(refusal.caller, SEVERAL, refusal.reason, "")


def destroy_pseudonym(connection: Connection, name: str, caller: Caller, now: float) -> str:
    """Destroys the key of a name such as `client/c3`, notes that, and returns the pseudonym.

    The entry names the pseudonym alone. Raises FednotError (UNKNOWN_NAME, and DELETION_IN_PROGRESS
    for a client whose deletion is open: the entry of its end would bring the name back).
    """
    pseudonym = pseudonym_rows.known_pseudonym(connection, name)
    _check_no_deletion_is_open(connection, name)
    event = AuditEvent(caller, "AuditService.DestroyPseudonym", subject=pseudonym)
    audit_rows.append(connection, event, now)
    pseudonym_rows.destroy(connection, name)
    return pseudonym


def note_job_end(connection: Connection, job_id: str, phase: JobPhase, now: float) -> None:
    """Notes that a job has ended so, which nobody asked for, for each thing that it was about."""
    for subject in deletion_rows.subjects_of_job(connection, job_id):
        event = AuditEvent(NOBODY, f"job.{phase}", subject=subject, job_id=job_id)
        audit_rows.append(connection, event, now)


def note_job_verified(connection: Connection, job_id: str, found: Verification, now: float) -> None:
    """Notes the verdicts on an attempt of a job, for each thing that it is about."""
    reason = f"behaviour={found.behaviour.verdict} depth={found.depth.verdict}"
    for subject in deletion_rows.subjects_of_job(connection, job_id):
        event = AuditEvent(NOBODY, "job.verified", subject, reason=reason, job_id=job_id)
        audit_rows.append(connection, event, now)


def _append(connection: Connection, kind: _Refusal, count: int, at: float) -> None:
    event = AuditEvent(
        caller=kind.caller,
        action=kind.action,
        subject=kind.subject if _is_known(connection, kind.subject) else "",
        outcome=AuditOutcome.REFUSED,
        reason=kind.reason,
        job_id=kind.job_id,
        count=count,
    )
    audit_rows.append(connection, event, at)


def _is_known(connection: Connection, subject: str) -> bool:
    """Whether a subject is more than what a caller made up: it would stand here for ever."""
    role, _, name = subject.partition("/")
    has_joined = role == Role.CLIENT and client_rows.client_exists(connection, name)
    return has_joined or pseudonym_rows.has_pseudonym(connection, subject)


def _check_no_deletion_is_open(connection: Connection, name: str) -> None:
    role, _, client = name.partition("/")
    for standing in standing_rows.standing_about(connection, client):
        if role == Role.CLIENT and standing.phase not in ENDED:
            raise FednotError(
                Reason.DELETION_IN_PROGRESS,
                f"client {client} is being forgotten by deletion {standing.request_id}, whose end "
                "the audit will name; forget the name once the job has ended",
                metadata=standing.metadata | {CLIENT_KEY: client},
            )


def _is_name(text: str) -> bool:
    role, _, name = text.partition("/")
    return role in Role.__members__.values() and CLIENT_NAME.fullmatch(name) is not None
