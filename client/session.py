"""One session with the server: every call of it, each with its deadline."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, Self, TypeVar

from google.protobuf import duration_pb2

from client.connection import Connection, FinalRefusalError, SessionLostError, final
from client.destroyed import Destroyed
from client.dialler import Dialler
from client.forgotten import Forgotten
from client.profiling import report_of
from fednot import calls
from fednot.codecs import Codec, codec_of
from fednot.codecs.topk import DEFAULT_FRACTION
from fednot.errors import FednotError
from fednot.loss_profile import LossProfile
from fednot.v1 import federation_pb2
from fednot.wire import codec_name

if TYPE_CHECKING:
    from fednot.v1.federation_pb2_grpc import FederationServiceAsyncStub
    from fednot.v1.secure_aggregation_pb2_grpc import SecureAggregationServiceAsyncStub

JOIN_SECONDS: Final = 30.0
CALL_SECONDS: Final = 15.0
LEAVE_SECONDS: Final = 4.0
"""A server that is busy for longer than this hears of the leave only when the session lapses."""
DEFAULT_HEARTBEAT_SECONDS: Final = 5.0
SHORTEST_HEARTBEAT_SECONDS: Final = 0.05

T = TypeVar("T")


class Session:
    """An open session of `client`: `codec` is how updates are encoded, `data_port` the data
    channel's, or 0.

    Calls are repeated over outages until the server answers.

    Each may raise FednotError, SessionLostError and FinalRefusalError.
    """

    def __init__(
        self,
        dialler: Dialler,
        connection: Connection,
        client: str,
        opened: federation_pb2.JoinResponse,
    ) -> None:
        self.message = federation_pb2.Session(client=client, id=opened.session_id)
        self.barred = opened.barred if opened.HasField("barred") else None
        given = opened.heartbeat_interval.ToNanoseconds() / 1e9 or DEFAULT_HEARTBEAT_SECONDS
        self.heartbeat_seconds = max(given, SHORTEST_HEARTBEAT_SECONDS)
        self.codec = _agreed(opened)
        self.data_port = opened.data_port
        self.client = opened.client or client
        self._dialler = dialler
        self._connection = connection

    @property
    def masks(self) -> bool:
        """Whether updates are masked, so that the server sees only their sum."""
        return self.codec.name == "masked"

    @classmethod
    async def join(
        cls,
        dialler: Dialler,
        connection: Connection,
        request: federation_pb2.JoinRequest,
    ) -> Self:
        """Opens a session, however long it takes. Raises FinalRefusalError if it is refused."""
        try:
            opened = await connection.call(
                lambda: dialler.call(lambda stub: stub.Join(request, timeout=JOIN_SECONDS))
            )
        except FednotError as refusal:
            raise final(refusal) from refusal
        except SessionLostError as error:
            raise FinalRefusalError(f"the server refuses to open a session: {error}") from error
        session = cls(dialler, connection, request.client, opened)
        connection.opened(session.heartbeat_seconds)
        return session

    async def poll(self, wait_seconds: float) -> federation_pb2.PollWorkResponse:
        """Asks for work; the server may hold the call for the given time."""
        wait = duration_pb2.Duration()
        wait.FromNanoseconds(int(wait_seconds * 1e9))
        request = federation_pb2.PollWorkRequest(session=self.message, max_wait=wait)
        timeout = wait_seconds + CALL_SECONDS
        return await self._called(lambda stub: stub.PollWork(request, timeout=timeout))

    async def heartbeat(
        self,
        work_id: str,
        device: str,
        *,
        degraded: bool,
        privacy: federation_pb2.PrivacySpent | None = None,
        activity: federation_pb2.ClientActivity | None = None,
    ) -> federation_pb2.HeartbeatResponse | None:
        """Says what the client does; None if the server could not be reached this time."""
        request = federation_pb2.HeartbeatRequest(
            session=self.message,
            work_id=work_id,
            device=device,
            degraded=degraded,
            privacy=privacy,
            activity=activity,
        )
        return await self._connection.try_once(
            lambda: self._dialler.call(lambda stub: stub.Heartbeat(request, timeout=CALL_SECONDS))
        )

    async def report_evaluation(
        self,
        work_id: str,
        num_examples: int,
        metrics: Mapping[str, float],
        cancelled: threading.Event,
    ) -> None:
        """Reports scores. Raises WorkCancelledError if the work ends during an outage."""
        request = federation_pb2.ReportEvaluationRequest(
            session=self.message, work_id=work_id, num_examples=num_examples, metrics=metrics
        )
        await self._called(
            lambda stub: stub.ReportEvaluation(
                request, timeout=CALL_SECONDS, metadata=calls.current().metadata()
            ),
            cancelled,
        )

    async def report_failure(self, work_id: str, message: str, cancelled: threading.Event) -> None:
        """Says that the work could not be done. Raises WorkCancelledError as above."""
        request = federation_pb2.ReportFailureRequest(
            session=self.message, work_id=work_id, message=message
        )
        await self._called(
            lambda stub: stub.ReportFailure(
                request, timeout=CALL_SECONDS, metadata=calls.current().metadata()
            ),
            cancelled,
        )

    async def report_destruction(self, order_id: str, destroyed: Iterable[Destroyed]) -> None:
        """Says what was destroyed by an order."""
        caches = [
            federation_pb2.DestroyedCache(
                kind=cache.kind, sha256=cache.sha256, num_bytes=cache.num_bytes
            )
            for cache in destroyed
        ]
        request = federation_pb2.ReportDestructionRequest(
            session=self.message, order_id=order_id, destroyed=caches
        )
        await self._called(
            lambda stub: stub.ReportDestruction(
                request, timeout=CALL_SECONDS, metadata=calls.current().metadata()
            )
        )

    async def report_forgetting(self, order_id: str, forgotten: Forgotten) -> None:
        """Says what was barred by an order, or why it cannot be."""
        request = federation_pb2.ReportForgettingRequest(
            session=self.message,
            order_id=order_id,
            count=forgotten.count,
            sha256=forgotten.sha256,
            refusal=forgotten.refusal,
            num_train_examples=forgotten.num_train,
            num_test_examples=forgotten.num_test,
        )
        await self._called(
            lambda stub: stub.ReportForgetting(
                request, timeout=CALL_SECONDS, metadata=calls.current().metadata()
            )
        )

    async def report_profile(
        self, work_id: str, found: Mapping[int, LossProfile], cancelled: threading.Event
    ) -> None:
        """Reports loss profiles by group. Raises WorkCancelledError as above."""
        request = federation_pb2.ReportProfileRequest(
            session=self.message, work_id=work_id, profiles=report_of(found)
        )
        await self._called(
            lambda stub: stub.ReportProfile(
                request, timeout=CALL_SECONDS, metadata=calls.current().metadata()
            ),
            cancelled,
        )

    async def mask(
        self,
        method: Callable[[SecureAggregationServiceAsyncStub], Awaitable[T]],
        cancelled: threading.Event,
    ) -> T:
        """Takes a step of a masked round. Raises WorkCancelledError as above."""
        return await self._connection.call(lambda: self._dialler.mask(method), cancelled)

    async def leave(self, activity: federation_pb2.ClientActivity | None = None) -> None:
        """Closes the session, with one attempt. Raises AioRpcError if it did not get through."""
        request = federation_pb2.LeaveRequest(session=self.message, activity=activity)
        await self._dialler.call(lambda stub: stub.Leave(request, timeout=LEAVE_SECONDS))

    async def _called(
        self,
        method: Callable[[FederationServiceAsyncStub], Awaitable[T]],
        cancelled: threading.Event | None = None,
    ) -> T:
        return await self._connection.call(lambda: self._dialler.call(method), cancelled)


def _agreed(opened: federation_pb2.JoinResponse) -> Codec:
    try:
        return codec_of(codec_name(opened.codec), opened.top_k_fraction or DEFAULT_FRACTION)
    except ValueError as error:
        raise FinalRefusalError(
            f"the server chose an encoding of updates that this client cannot make ({error}); "
            "update the client, or leave --codec out"
        ) from error
