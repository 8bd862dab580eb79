"""The life of the client: join, poll, work, join again, leave."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from grpc import aio

from client import forgetting
from client.asking import Asking
from client.backoff import Backoff
from client.barring import Barring
from client.connection import FinalRefusalError, SessionLostError
from client.destruction import obey
from client.dialler import Dialler
from client.orders import origin_of
from client.rounds import Rounds
from client.session import LEAVE_SECONDS, Session
from client.startup import Prepared
from client.worker import Worker
from fednot import calls, tracing
from fednot.errors import FednotError
from fednot.v1 import federation_pb2

BARRED_PAUSE: Final = 5.0
STEADY_SECONDS: Final = 30.0
CANCEL_SECONDS: Final = 2.0
HASTY_SECONDS: Final = 0.1

_log = logging.getLogger("client")


class Runtime:
    """A client that serves its federation until it is stopped.

    `told_trust` is given the digest of the authorities that the server trusts, with each heartbeat.
    """

    def __init__(
        self,
        dialler: Dialler,
        prepared: Prepared,
        rounds: Rounds,
        worker: Worker,
        told_trust: Callable[[str], None],
    ) -> None:
        self._dialler = dialler
        self._told_trust = told_trust
        self._connection = prepared.connection
        self._prepared = prepared
        self._request = prepared.join_request()
        self._rounds = rounds
        self._worker = worker
        self._device = prepared.trainer.device
        self._state = prepared.state
        self._metrics = prepared.metrics
        self._barring = Barring(prepared.metrics, rounds.forget)
        self._asking = Asking(dialler, prepared.connection, prepared.trainer.tombstones, rounds)
        self._poll_wait = prepared.settings.poll_wait
        self._session: Session | None = None
        self._counting = asyncio.Lock()
        self._told_train = self._request.num_train_examples

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set, then leaves, all within a few seconds.

        Raises FinalRefusalError, after leaving, when the server refuses for good.
        """
        serving = asyncio.create_task(self._serve_for_ever())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._rounds.cancel()
            await _end(serving, stopping)
            await asyncio.gather(self._leave(), self._worker.stopped(CANCEL_SECONDS))
        if _ended(serving):
            serving.result()

    async def _serve_for_ever(self) -> None:
        backoff = Backoff()
        while True:
            session = await self._join()
            started = time.monotonic()
            try:
                await self._serve(session)
            except (SessionLostError, FednotError) as error:
                _log.warning("the session ended, joining again: %s", error)
            self._connection.closed()
            self._session = None
            self._metrics.reconnected()
            if time.monotonic() - started > STEADY_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _join(self) -> Session:
        self._connection.waiting_for = f"{self._connection.address} to open a session"
        try:
            self._request = await asyncio.to_thread(self._prepared.join_request)
        except OSError as error:
            _log.error("%s", error)  # the work itself will fail of it, and say so
        self._told_train = self._request.num_train_examples
        session = await Session.join(self._dialler, self._connection, self._request)
        self._session = session
        if self._prepared.settings.secure_aggregation == "require" and not session.masks:
            raise FinalRefusalError(
                "the server asks for updates that it can read, and this client sends masked ones "
                "only; start the server with --secure-aggregation, or this client without "
                "--secure-aggregation require"
            )
        self._rounds.joined(session)
        try:
            self._state.remember(self._request.client)
        except OSError as error:
            _log.warning("the identity could not be written to %s: %s", self._state.path, error)
        _log.info("joined %s as %s", self._connection.address, self._request.client)
        if session.barred is not None:
            self._barring.told(session.barred)
        else:
            self._barring.lifted()
        return session

    async def _serve(self, session: Session) -> None:
        polling = asyncio.create_task(self._poll(session))
        beating = asyncio.create_task(self._beat(session))
        asking = asyncio.create_task(self._ask(session))
        every = (polling, beating, asking)
        try:
            await asyncio.wait(every, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(*every)
            self._rounds.parted()
        for error in [task.exception() for task in every if _ended(task)]:
            if error is not None:
                raise error

    async def _poll(self, session: Session) -> None:
        pace = Backoff()
        while True:
            self._connection.waiting_for = f"work from {self._connection.address}"
            asked = time.monotonic()
            response = await session.poll(self._poll_wait)
            if response.WhichOneof("work") == "barred":
                self._barring.told(response.barred)
                held = time.monotonic() - asked
                await asyncio.sleep(max(0.0, min(self._poll_wait, BARRED_PAUSE) - held))
                continue
            done = await self._work(session, response)
            if done or time.monotonic() - asked > HASTY_SECONDS:
                pace.reset()
            else:  # a server that hands out nothing, or failing work, at once is not flooded
                await asyncio.sleep(pace.next())

    async def _work(self, session: Session, response: federation_pb2.PollWorkResponse) -> bool:
        with calls.bound(origin_of(response)):
            return await self._done(session, response)

    async def _done(self, session: Session, response: federation_pb2.PollWorkResponse) -> bool:
        match response.WhichOneof("work"):
            case "train":
                self._barring.lifted()
                return await self._rounds.train(session, response.train) == "completed"
            case "unlearn":
                order = response.unlearn
                return await self._rounds.train(session, order.train, order) == "completed"
            case "destroy":
                with tracing.span("client destroys"):
                    return await obey(session, response.destroy, self._rounds)
            case "forget":
                with tracing.span("client bars"):
                    return await self._forget(session, response.forget)
            case "profile":
                with tracing.span("client profiles"):
                    return await self._rounds.profile(session, response.profile) == "completed"
            case "evaluate":
                with tracing.span("client evaluates"):
                    return await self._rounds.evaluate(session, response.evaluate) == "completed"
        return False

    async def _beat(self, session: Session) -> None:
        while True:
            await asyncio.sleep(session.heartbeat_seconds)
            work, activity = self._rounds.current, self._metrics.activity.message()
            response = await session.heartbeat(
                work.id if work else "",
                str(self._device.current),
                degraded=self._device.degraded,
                privacy=self._privacy_spent(),
                activity=activity,
            )
            if response is None:
                continue
            self._metrics.activity.answered(activity)
            self._told_trust(response.trust_digest)
            if work is not None and not response.work_stands:
                work.cancelled.set()
            if response.HasField("barred"):
                self._barring.told(response.barred)

    def _privacy_spent(self) -> federation_pb2.PrivacySpent | None:
        privacy = self._prepared.trainer.privacy
        spent = privacy.spent if privacy is not None else None
        return None if spent is None else spent.message()

    async def _ask(self, session: Session) -> None:
        while True:
            await self._asking.look(session.message.client or self._request.client)
            await asyncio.sleep(session.heartbeat_seconds)
            idle = self._rounds.current is None and not self._counting.locked()
            if idle and await self._counts_differ():
                raise SessionLostError("the server is told how many samples are left")

    async def _forget(self, session: Session, order: federation_pb2.ForgetWork) -> bool:
        trainer = self._prepared.trainer
        async with self._counting:
            obeyed = await forgetting.obey(session, order, self._rounds, trainer)
            self._told_train, _ = await asyncio.to_thread(trainer.own.counts)
        return obeyed

    async def _counts_differ(self) -> bool:
        """Whether samples were barred since the server was told how many there are."""
        async with self._counting:  # an order that bars samples meanwhile tells it, too
            try:
                num_train, _ = await asyncio.to_thread(self._prepared.trainer.own.counts)
            except OSError:
                return False
            return num_train != self._told_train

    async def _leave(self) -> None:
        self._connection.closed()
        if self._session is None:
            return
        session, self._session = self._session, None
        try:
            async with asyncio.timeout(LEAVE_SECONDS + 0.5):
                await session.leave(self._metrics.activity.message())
        except (aio.AioRpcError, TimeoutError) as error:
            _log.info("left without the server's answer: %s", type(error).__name__)
        else:
            _log.info("left %s", self._connection.address)


def _ended(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled()


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
