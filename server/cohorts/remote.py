"""The cohort of clients that dialled in over gRPC: their sessions and the work they were given."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from fednot.codecs import Codec
from fednot.codecs.none import Plain
from fednot.errors import FednotError, Reason
from server.broadcast import Broadcast
from server.cohorts.cohort import Answer, NoAnswer, Update, WorkPlan
from server.fences import Fences
from server.pauses import Pauses
from server.privacy import PrivacySpent
from server.pulse import Pulse

LIVENESS_TICK = 0.5
REJOIN_SECONDS = 15.0
"""In so long a client that lost its server is back: twice its longest wait between attempts."""


@dataclass
class Session:
    """A client that is there: `last_seen` is on the monotonic clock, in seconds.

    `instance` names the state directory that it runs from; a client that names none has "".
    `certificate` is the one that it showed last, as PEM, and `certificate_expires_at` when that
    ends, in seconds since the epoch; both None over plaintext. `codec` is how it encodes updates.
    `told_bar` is the request by which it was told in this session that it is barred. `privacy` is
    what its training has spent, None as long as it says nothing of differential privacy.
    `unlearning_works` are the named works that it can do. `software_version` is what it says.
    """

    client: str
    num_train_examples: int
    num_test_examples: int
    device: str
    last_seen: float
    degraded: bool = False
    certificate_expires_at: float | None = None
    certificate: bytes | None = None
    instance: str = ""
    codec: Codec = field(default_factory=Plain)
    told_bar: str = ""
    privacy: PrivacySpent | None = None
    unlearning_works: frozenset[str] = frozenset()
    software_version: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class Assignment:
    """One client's part of a plan. It outlives a session, so that a client that rejoins gets it."""

    def __init__(
        self,
        client: str,
        plan: WorkPlan,
        broadcast: Broadcast,
        answers: asyncio.Queue[Answer],
    ) -> None:
        self.id = plan.work_id_of(client)
        self.client = client
        self.plan = plan
        self.broadcast = broadcast
        self.deadline_at = time.time() + plan.deadline
        self.answered = False
        self.over: FednotError | None = None
        self._given_up = ""
        self._answers = answers
        self._verdict: asyncio.Future[None] | None = None
        self._at_end: set[Callable[[], object]] = set()

    def check_fence(self, fences: Fences) -> None:
        """Raises FednotError (CLIENT_BARRED), unless this is work on what is forgotten."""
        if not self.plan.works_on_forgotten(self.client):
            fences.check(self.client)

    @property
    def reference_id(self) -> str:
        """Under which id the model beside the work's own is downloaded; "" if there is none."""
        order = self.plan.unlearning
        flat = order.reference_of(self.client) if order is not None else None
        return f"{self.id}-reference" if flat is not None else ""

    @property
    def stands(self) -> bool:
        """Whether it may count: an answer is awaited, or an update came that was not refused."""
        if self.over is not None:
            return self.over.reason is Reason.SHUTTING_DOWN
        if self._verdict is None:
            return not self.answered
        return not self._verdict.done() or self._verdict.exception() is None

    async def judged(self) -> None:
        """Waits for the verdict on an update that came already, if there is one."""
        if self._verdict is not None:
            await asyncio.wait([self._verdict])

    def check_open(self) -> None:
        """Raises FednotError unless an answer is awaited: ROUND_OVER, or SHUTTING_DOWN; if it was
        given already, the verdict on it again, or DUPLICATE_UPDATE if it counts.
        """
        if self.over is not None:
            raise self.over
        if self._verdict is not None and self._verdict.done():
            self._verdict.result()
        if self._given_up:
            raise FednotError(
                Reason.ROUND_OVER, f"this work is no longer waited for: {self._given_up}"
            )
        if self.answered:
            raise FednotError(Reason.DUPLICATE_UPDATE, "this work was answered already")

    @contextmanager
    def until_its_end(self, end: Callable[[], object]) -> Iterator[None]:
        """Ties something to this work: `end` is called if the work ends first, even if it stalls.

        Raises FednotError (ROUND_OVER or SHUTTING_DOWN) if the work has ended.
        """
        if self.over is not None:
            raise self.over
        self._at_end.add(end)
        try:
            yield
        finally:
            self._at_end.discard(end)

    def at_its_end(self, end: Callable[[], object]) -> None:
        """Calls `end` when the work ends."""
        self._at_end.add(end)

    def answer(self, answer: Answer) -> None:
        """Hands an answer to the round. Raises FednotError unless one is awaited."""
        self.check_open()
        self.answered = True
        self._given_up = answer.reason if isinstance(answer, NoAnswer) else ""
        self._answers.put_nowait(answer)

    async def submit(self, update: Update) -> None:
        """Hands an update to the round and waits for its verdict; then the update is settled, too.

        The verdict is kept if the sender hangs up. Raises FednotError if the round refuses the
        update, or ends first.
        """
        verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        verdict.add_done_callback(asyncio.Future.exception)  # of a sender that hung up, else logged

        def settle(refusal: FednotError | None) -> None:
            update.settle(refusal)
            if verdict.done():
                return
            if refusal is None:
                verdict.set_result(None)
            else:
                verdict.set_exception(refusal)

        self.answer(replace(update, settle=settle))
        self._verdict = verdict
        await asyncio.shield(verdict)

    def end(self, why: FednotError | None = None) -> None:
        """Ends the work: an update whose verdict is open is refused, transfers are cut.

        `why` is what clients are told from now on; ROUND_OVER without it.
        """
        self.over = why or _round_over()
        for end in tuple(self._at_end):
            end()
        self._at_end.clear()
        if self._verdict is not None and not self._verdict.done():
            self._verdict.set_exception(self.over)


class Reference(Assignment):
    """The model beside that of a piece of work: it is downloaded, and wants no answer."""

    def __init__(self, work: Assignment, broadcast: Broadcast) -> None:
        super().__init__(work.client, work.plan, broadcast, asyncio.Queue())
        self.id = work.reference_id
        self.answered = True

    def check_open(self) -> None:
        """Raises FednotError (ROUND_OVER or SHUTTING_DOWN) if the work has ended."""
        if self.over is not None:
            raise self.over


class RemoteCohort:
    """Sessions and assignments. A session lapses when nothing was heard for `lapse` seconds.

    What counts is the time in which the server could hear, as `pauses` tell.
    """

    def __init__(self, *, lapse: float) -> None:
        self._lapse = lapse
        self.pauses = Pauses()
        self._sessions: dict[str, Session] = {}
        self._assignments: dict[str, Assignment] = {}
        self._pulse = Pulse()
        self._stopping = False
        self._called_back = 0

    def stop(self) -> None:
        """Sends waiting clients away, since the server stops: they reconnect to the next one.

        Work that ends from now on may go on there, so nobody is told that it no longer counts.
        """
        self._stopping = True
        self._pulse.beat()

    def call_back(self) -> None:
        """Ends every poll that waits, so that clients ask again at once: there are orders."""
        self._called_back += 1
        self._pulse.beat()

    def connected(self) -> frozenset[str]:
        """Clients whose session has not lapsed."""
        return frozenset(name for name in self._sessions if self._is_live(name))

    def last_seen(self, client: str) -> float | None:
        """When the client was last heard of in this process, in seconds since the epoch."""
        session = self._sessions.get(client)
        return time.time() - (time.monotonic() - session.last_seen) if session else None

    def can_train(self, client: str) -> bool:
        """Whether the client has training examples left."""
        session = self._sessions.get(client)
        return session is not None and session.num_train_examples > 0

    def can_evaluate(self, client: str) -> bool:
        """Whether the client said that it holds test examples."""
        session = self._sessions.get(client)
        return session is not None and session.num_test_examples > 0

    async def wait_for_change(self, seconds: float) -> None:
        """Waits until a client joined or left, or work was given or has ended."""
        await self._pulse.wait(seconds, self._pulse.mark())

    def check_free(self, session: Session) -> None:
        """Raises FednotError (CLIENT_CONNECTED) if another process has the client's session.

        Two processes from one state directory cannot be: the older one has ended.
        """
        present = self._sessions.get(session.client)
        if present is None or present.instance == session.instance:
            return
        silence = self.pauses.listened(present.last_seen)
        if silence < self._lapse:
            raise FednotError(
                Reason.CLIENT_CONNECTED,
                f"another process is {session.client!r} now, last seen {silence:.0f} s ago",
                retry_after=self._lapse - silence,
            )

    def open(self, session: Session) -> None:
        """Opens a session in place of the client's older one.

        Raises FednotError (CLIENT_CONNECTED) if that is another process's, and lives.
        """
        self.check_free(session)
        self._sessions[session.client] = session
        self._pulse.beat()

    def close(self, session: Session, why: str = "it left") -> None:
        """Closes a session; a round that waits for the client stops waiting, and is told why."""
        self._sessions.pop(session.client, None)
        for assignment in self._of(session.client):
            if not assignment.answered:
                assignment.answer(NoAnswer(session.client, why))
        self._pulse.beat()

    def close_unless(self, holds: Callable[[bytes], bool]) -> list[str]:
        """Closes the sessions whose certificate does not hold any more; returns their clients."""
        closed = [
            session
            for session in self._sessions.values()
            if session.certificate is not None and not holds(session.certificate)
        ]
        for session in closed:
            self.close(session, "its certificate no longer holds")
        return [session.client for session in closed]

    def session(self, client: str, session_id: str) -> Session:
        """The live session of a caller, marked as seen. Raises FednotError (UNKNOWN_SESSION)."""
        found = self._sessions.get(client)
        if found is None or found.id != session_id:
            raise FednotError(
                Reason.UNKNOWN_SESSION,
                f"client {client!r} has no session {session_id!r}; it must join",
            )
        found.last_seen = time.monotonic()
        return found

    def sessions(self) -> dict[str, Session]:
        """Live sessions by client."""
        return {name: self._sessions[name] for name in self.connected()}

    def working(self) -> frozenset[str]:
        """Clients with work that they have not answered."""
        return frozenset(a.client for a in self._assignments.values() if not a.answered)

    async def next_assignment(self, client: str, max_wait: float) -> Assignment | None:
        """The client's open work, once there is some, or None after `max_wait` seconds.

        Raises FednotError (SHUTTING_DOWN) when the server stops.
        """
        until, called_back = time.monotonic() + max_wait, self._called_back
        while True:
            mark = self._pulse.mark()
            if self._stopping:
                raise _stops()
            # No variable of the loop may keep an assignment, and with it a model, while this waits.
            open_one = next((a for a in self._of(client) if not a.answered), None)
            if open_one is not None:
                return open_one
            left = until - time.monotonic()
            if left <= 0 or self._called_back != called_back:
                return None
            await self._pulse.wait(left, mark)

    def assignment(self, client: str, work_id: str) -> Assignment:
        """The work of an id, if it is the caller's. Raises FednotError (UNKNOWN_WORK)."""
        found = self._assignments.get(work_id)
        if found is None and self._stopping:
            raise _stops()
        if found is None or found.client != client:
            raise FednotError(
                Reason.UNKNOWN_WORK, f"client {client!r} has no work {work_id!r}; the round is over"
            )
        return found

    async def work(self, plan: WorkPlan) -> AsyncGenerator[Answer, None]:
        """Yields one answer for each client of the plan, until its deadline.

        As with silence, what counts is the time in which the server could hear.
        """
        answers: asyncio.Queue[Answer] = asyncio.Queue()
        broadcast = Broadcast(plan.flat, plan.release)
        batch = [Assignment(client, plan, broadcast, answers) for client in plan.clients]
        references, beside = _references(plan, batch)
        every = (*batch, *references)
        self._assignments |= {assignment.id: assignment for assignment in every}
        if plan.masked is not None:
            plan.masked.assigned({assignment.client: assignment for assignment in batch})
        self._pulse.beat()
        started = time.monotonic()
        grace = max(self._lapse, REJOIN_SECONDS) if plan.resumed else 0.0
        waiting = set(plan.clients)
        try:
            while waiting and (left := plan.deadline - self.pauses.listened(started)) > 0:
                try:
                    async with asyncio.timeout(min(left, LIVENESS_TICK)):
                        answer = await answers.get()
                except TimeoutError:
                    early = self.pauses.listened(started) < grace
                    self._give_up_on_lapsed(batch, early=early)
                    continue
                waiting.discard(answer.client)
                yield answer
            for client in sorted(waiting):
                yield NoAnswer(client, f"no answer in {plan.deadline:g} s; {self._seen(client)}")
        finally:
            for assignment in every:
                assignment.end(_stops() if self._stopping else None)
                del self._assignments[assignment.id]
            broadcast.close()
            if beside is not None:
                beside.close()
            self._pulse.beat()

    def _give_up_on_lapsed(self, batch: Iterable[Assignment], *, early: bool) -> None:
        for assignment in batch:
            if early and assignment.client not in self._sessions:
                continue
            if not assignment.answered and not self._is_live(assignment.client):
                reason = f"lost; {self._seen(assignment.client)}"
                assignment.answer(NoAnswer(assignment.client, reason))

    def _of(self, client: str) -> list[Assignment]:
        return [a for a in self._assignments.values() if a.client == client]

    def _is_live(self, client: str) -> bool:
        session = self._sessions.get(client)
        return session is not None and self.pauses.listened(session.last_seen) < self._lapse

    def _seen(self, client: str) -> str:
        session = self._sessions.get(client)
        if session is None:
            return "it has no session"
        return f"last seen {time.monotonic() - session.last_seen:.0f} s ago"


def _references(
    plan: WorkPlan, batch: Iterable[Assignment]
) -> tuple[list[Reference], Broadcast | None]:
    if plan.unlearning is None or plan.unlearning.reference is None:
        return [], None
    beside = Broadcast(plan.unlearning.reference, lambda _start, _stop: None)
    return [Reference(work, beside) for work in batch if work.reference_id], beside


def _stops() -> FednotError:
    return FednotError(Reason.SHUTTING_DOWN, "the server is stopping", retry_after=1.0)


def _round_over() -> FednotError:
    return FednotError(Reason.ROUND_OVER, "the round has ended; this work no longer counts")
