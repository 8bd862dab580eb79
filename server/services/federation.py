"""The service for clients."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from grpc import aio
from sqlalchemy import Connection

from fednot.calls import Origin
from fednot.chunk_messages import OFFSET_KEY
from fednot.errors import FednotError, Reason
from fednot.naming import one_line
from fednot.v1 import federation_pb2, federation_pb2_grpc, model_pb2
from server.cohorts.cohort import Evaluation, NoAnswer, Profiles, WorkKind
from server.cohorts.remote import RemoteCohort, Session
from server.destruction import check_report
from server.federation import Federation
from server.fleet import Fleet
from server.methods.method import TRAIN
from server.privacy import PrivacySpent
from server.records import ClientRecord
from server.services import callers
from server.services.admission import (
    check_join,
    check_metrics,
    device_name,
    instance_name,
    session_of,
    unlearning_works,
    unsupported_scopes,
)
from server.services.downloads import DownloadDesk
from server.services.messages import barred_message
from server.services.offer import SessionOffer
from server.services.uploads import Part, UploadStream
from server.services.work_messages import (
    answer_of,
    destroy_work,
    destroyed_cache,
    evaluate_work,
    forget_work,
    profile_work,
    profiles_of,
    train_work,
    unlearn_work,
)
from server.state import client_rows, forget_rows, job_rows
from server.state.commits import Commit
from server.uploads.desk import UploadDesk

MAX_POLL_SECONDS: Final = 30.0
MAX_MESSAGE_LENGTH: Final = 500
MAX_VERSION_LENGTH: Final = 32
OWES: Final = "it has not barred what it was told to"

log = logging.getLogger("server.federation")

Context = aio.ServicerContext[Any, Any]


class FederationServicer(federation_pb2_grpc.FederationServiceServicer):
    """Sessions, work, and model bytes both ways."""

    def __init__(
        self,
        federation: Federation,
        cohort: RemoteCohort,
        *,
        uploads: UploadDesk,
        offer: SessionOffer,
        trust_digest: Callable[[], str] = str,
    ) -> None:
        """`trust_digest` tells clients when the authorities that they trust have changed."""
        self._federation = federation
        self._cohort = cohort
        self._offer = offer
        self._trust_digest = trust_digest
        self._uploads = UploadStream(uploads, federation.metrics)
        self._downloads = DownloadDesk(federation, cohort)
        self._transfers = federation.metrics.transfers
        self._fleet = Fleet(federation.metrics.fleet)

    async def Join(
        self, request: federation_pb2.JoinRequest, context: Context
    ) -> federation_pb2.JoinResponse:
        """Opens a session."""
        name = callers.client_name(request.client)
        check_join(name, request, self._federation.model.manifest)
        device = device_name(request.device)
        session = Session(
            client=name,
            num_train_examples=request.num_train_examples,
            num_test_examples=request.num_test_examples,
            device=device,
            last_seen=time.monotonic(),
            certificate_expires_at=callers.current().expires_at,
            certificate=callers.certificate(),
            instance=instance_name(request.instance),
            codec=self._offer.codec_for(request.codecs),
            unlearning_works=unlearning_works(request.unlearning_works),
            software_version=one_line(request.software_version, MAX_VERSION_LENGTH),
        )
        self._cohort.check_free(session)
        record = ClientRecord(
            name=name,
            joined_at=time.time(),
            last_seen_at=time.time(),
            num_train_examples=request.num_train_examples,
            num_test_examples=request.num_test_examples,
            device=device,
            unsupported_scopes=unsupported_scopes(request),
        )

        def command(connection: Connection) -> bool:
            client_rows.record_join(connection, record)
            moved = client_rows.moved(connection, name, session.instance)
            if moved:
                forget_rows.order_classes_again(connection, name, record.joined_at)
            return forget_rows.order_standing_classes(connection, name, record.joined_at) or moved

        if await self._federation.database.write(Commit.CLIENT_JOINED, command):
            await self._federation.reload_fences()  # before any round can see the session
        self._cohort.open(session)
        fields = {"client": name, "version": session.software_version, "device": device}
        log.info("%s joined: fednot %s on %s", name, session.software_version, device, extra=fields)
        response = federation_pb2.JoinResponse(
            session_id=session.id,
            barred=barred_message(self._federation.fences.bar_of(name)),
            client=name,
        )
        self._offer.write(response, session.codec)
        return response

    async def PollWork(
        self, request: federation_pb2.PollWorkRequest, context: Context
    ) -> federation_pb2.PollWorkResponse:
        """Waits for work; a barred client is told at once, the first time, that it gets none."""
        session = session_of(self._cohort, request.session)
        ordered = await self._ordered(session.client)
        if ordered is not None:
            return ordered
        bar = self._federation.fences.bar_of(session.client)
        wait = min(max(request.max_wait.ToNanoseconds() / 1e9, 0.0), MAX_POLL_SECONDS)
        is_news = bar is not None and bar.request_id != session.told_bar
        assignment = await self._cohort.next_assignment(session.client, 0.0 if is_news else wait)
        session.last_seen = time.monotonic()
        if assignment is None:
            bar = self._federation.fences.bar_of(session.client)
            session.told_bar = bar.request_id if bar else ""
            return federation_pb2.PollWorkResponse(barred=barred_message(bar))
        if self._federation.fences.owes(session.client):  # maybe since it began to wait
            ordered = await self._ordered(session.client)
            if ordered is not None:
                return ordered
            if assignment.plan.kind is WorkKind.TRAIN:
                assignment.answer(NoAnswer(session.client, OWES))
                return federation_pb2.PollWorkResponse()
        if assignment.plan.kind is WorkKind.EVALUATE:
            return federation_pb2.PollWorkResponse(evaluate=evaluate_work(assignment))
        if assignment.plan.kind is WorkKind.PROFILE:
            return federation_pb2.PollWorkResponse(profile=profile_work(assignment))
        order = assignment.plan.unlearning
        if order is not None and (named := order.works[session.client]) != TRAIN:
            if named not in session.unlearning_works:
                assignment.answer(NoAnswer(session.client, f"its fednot cannot do {named!r}"))
                return federation_pb2.PollWorkResponse()
            return federation_pb2.PollWorkResponse(unlearn=unlearn_work(assignment, order))
        return federation_pb2.PollWorkResponse(train=train_work(assignment))

    async def _ordered(self, client: str) -> federation_pb2.PollWorkResponse | None:
        """What comes before any other work."""
        to_forget = await self._federation.forgettings.pending(client)
        if to_forget is not None:
            origin = await self._origin(to_forget.job_id)
            return federation_pb2.PollWorkResponse(forget=forget_work(to_forget, origin))
        to_destroy = await self._federation.destructions.pending(client)
        if to_destroy is not None:
            origin = await self._origin(to_destroy.job_id)
            return federation_pb2.PollWorkResponse(destroy=destroy_work(to_destroy, origin))
        return None

    async def _origin(self, job_id: str) -> Origin:
        return await self._federation.database.read(lambda c: job_rows.origin_of(c, job_id))

    async def DownloadModel(  # type: ignore[override]
        self, request: federation_pb2.DownloadModelRequest, context: Context
    ) -> AsyncIterator[federation_pb2.DownloadModelResponse | bytes]:
        """Streams the version that the caller's work names; chunks are encoded already."""
        download = self._downloads.open(request)
        assignment, session = download.assignment, download.session
        task = asyncio.current_task()
        with assignment.until_its_end(task.cancel if task else lambda: None):
            yield federation_pb2.DownloadModelResponse(header=download.header)
            for count, frame in assignment.broadcast.frames(request.offset):
                assignment.check_open()
                yield frame
                self._transfers.moved("sent", count)
                session.last_seen = time.monotonic()
            digest = await assignment.broadcast.checksum()
            trailer = model_pb2.StreamTrailer(xxh3_128=digest)
            yield federation_pb2.DownloadModelResponse(trailer=trailer)

    async def UploadUpdate(
        self, request_iterator: AsyncIterator[Part], context: Context
    ) -> federation_pb2.UploadUpdateResponse:
        """Takes an update; it counts once this returns."""

        async def announce(offset: int) -> None:
            await context.send_initial_metadata(((OFFSET_KEY, str(offset)),))

        counted_in = await self._uploads.take(request_iterator, announce)
        return federation_pb2.UploadUpdateResponse(round=counted_in)

    async def ReportEvaluation(
        self, request: federation_pb2.ReportEvaluationRequest, context: Context
    ) -> federation_pb2.ReportEvaluationResponse:
        """Takes the result of evaluation work."""
        session = session_of(self._cohort, request.session)
        assignment = self._cohort.assignment(session.client, request.work_id)
        if not 1 <= request.num_examples <= session.num_test_examples:
            raise FednotError(
                Reason.WRONG_NUM_EXAMPLES,
                f"{request.num_examples} examples were scored; "
                f"{session.client} joined with {session.num_test_examples}",
            )
        if assignment.plan.kind is not WorkKind.EVALUATE:
            raise FednotError(Reason.INVALID_REQUEST, "work_id: this work is training")
        check_metrics(request.metrics)
        assignment.answer(Evaluation(session.client, request.num_examples, dict(request.metrics)))
        return federation_pb2.ReportEvaluationResponse()

    async def ReportProfile(
        self, request: federation_pb2.ReportProfileRequest, context: Context
    ) -> federation_pb2.ReportProfileResponse:
        """Notes how a model does on groups of the client's samples."""
        session = session_of(self._cohort, request.session)
        assignment = self._cohort.assignment(session.client, request.work_id)
        if assignment.plan.kind is not WorkKind.PROFILE:
            raise FednotError(Reason.INVALID_REQUEST, "work_id: this work wants no profile")
        found = profiles_of(request.profiles)
        assignment.answer(Profiles(session.client, found))
        return federation_pb2.ReportProfileResponse()

    async def ReportForgetting(
        self, request: federation_pb2.ReportForgettingRequest, context: Context
    ) -> federation_pb2.ReportForgettingResponse:
        """Notes what a client has barred; from then on it may train on what is left."""
        session = session_of(self._cohort, request.session)
        said = answer_of(request)
        await self._federation.forgettings.confirm(session.client, request.order_id, said)
        if not said.refusal:
            session.num_train_examples = said.num_train_examples
            session.num_test_examples = said.num_test_examples
        what = f"cannot: {said.refusal}" if said.refusal else f"{said.count} samples"
        log.info("%s answers order %s to forget: %s", session.client, request.order_id, what)
        return federation_pb2.ReportForgettingResponse()

    async def ReportFailure(
        self, request: federation_pb2.ReportFailureRequest, context: Context
    ) -> federation_pb2.ReportFailureResponse:
        """Notes that work could not be done."""
        session = session_of(self._cohort, request.session)
        assignment = self._cohort.assignment(session.client, request.work_id)
        reason = f"it failed: {one_line(request.message, MAX_MESSAGE_LENGTH)}"
        assignment.answer(NoAnswer(session.client, reason))
        return federation_pb2.ReportFailureResponse()

    async def ReportDestruction(
        self, request: federation_pb2.ReportDestructionRequest, context: Context
    ) -> federation_pb2.ReportDestructionResponse:
        """Notes what a client destroyed."""
        session = session_of(self._cohort, request.session)
        destroyed = [destroyed_cache(message) for message in request.destroyed]
        check_report(destroyed)
        await self._federation.destructions.acknowledge(session.client, request.order_id, destroyed)
        log.info("%s destroyed %d caches as ordered", session.client, len(destroyed))
        return federation_pb2.ReportDestructionResponse()

    async def Heartbeat(
        self, request: federation_pb2.HeartbeatRequest, context: Context
    ) -> federation_pb2.HeartbeatResponse:
        """Notes that the client is alive and says whether its work still counts."""
        session = session_of(self._cohort, request.session)
        session.degraded = request.degraded
        if request.HasField("privacy"):
            session.privacy = PrivacySpent.told(request.privacy)
        if request.HasField("activity"):
            self._fleet.told(session.client, request.activity)
        session.device = device_name(request.device) or session.device
        return federation_pb2.HeartbeatResponse(
            work_stands=self._stands(session.client, request.work_id),
            barred=barred_message(self._federation.fences.bar_of(session.client)),
            trust_digest=self._trust_digest(),
        )

    async def Leave(
        self, request: federation_pb2.LeaveRequest, context: Context
    ) -> federation_pb2.LeaveResponse:
        """Closes the session."""
        session = session_of(self._cohort, request.session)
        if request.HasField("activity"):
            self._fleet.told(session.client, request.activity)
        self._cohort.close(session)
        seen = time.time()
        await self._federation.database.write(
            Commit.CLIENT_LEFT, lambda c: client_rows.record_seen(c, session.client, seen)
        )
        return federation_pb2.LeaveResponse()

    def _stands(self, client: str, work_id: str) -> bool:
        if not work_id:
            return True
        if self._federation.attempts.works_on(client, work_id):
            return True
        try:
            return self._cohort.assignment(client, work_id).stands
        except FednotError as refusal:
            return refusal.reason is Reason.SHUTTING_DOWN
