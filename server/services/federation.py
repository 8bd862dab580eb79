"""The service for clients."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from grpc import aio

from fednot.errors import FednotError, Reason
from fednot.naming import one_line
from fednot.tensors import as_bytes
from fednot.v1 import federation_pb2, federation_pb2_grpc, model_pb2
from fednot.wire import checksum, chunks
from server.cohorts.cohort import Evaluation, NoAnswer, WorkKind
from server.cohorts.remote import Assignment, RemoteCohort, Session
from server.federation import Federation
from server.records import ClientRecord
from server.services import callers
from server.services.admission import check_join, check_metrics, device_name, session_of
from server.services.messages import barred_message, round_phase, timestamp
from server.services.uploads import UploadDesk
from server.state import client_rows

MAX_POLL_SECONDS: Final = 30.0
MAX_MESSAGE_LENGTH: Final = 500
MAX_VERSION_LENGTH: Final = 32

log = logging.getLogger("server.federation")

Context = aio.ServicerContext[Any, Any]


class FederationServicer(federation_pb2_grpc.FederationServiceServicer):
    """Sessions, work, and model bytes both ways."""

    def __init__(
        self,
        federation: Federation,
        cohort: RemoteCohort,
        *,
        heartbeat_interval: float,
        upload_slots: int,
        trust_digest: Callable[[], str] = str,
    ) -> None:
        """`trust_digest` tells clients when the authorities that they trust have changed."""
        self._federation = federation
        self._cohort = cohort
        self._heartbeat_interval = heartbeat_interval
        self._trust_digest = trust_digest
        self._uploads = UploadDesk(federation, cohort, slots=upload_slots)

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
        )
        record = ClientRecord(
            name=name,
            joined_at=time.time(),
            last_seen_at=time.time(),
            num_train_examples=request.num_train_examples,
            num_test_examples=request.num_test_examples,
            device=device,
        )
        await self._federation.database.run(lambda c: client_rows.record_join(c, record))
        self._cohort.open(session)
        software = one_line(request.software_version, MAX_VERSION_LENGTH)
        log.info("%s joined: fednot %s on %s", name, software, device)
        response = federation_pb2.JoinResponse(
            session_id=session.id,
            barred=barred_message(self._federation.fences.bar_of(name)),
            client=name,
        )
        response.heartbeat_interval.FromNanoseconds(int(self._heartbeat_interval * 1e9))
        return response

    async def PollWork(
        self, request: federation_pb2.PollWorkRequest, context: Context
    ) -> federation_pb2.PollWorkResponse:
        """Waits for work; a barred client is told at once that it gets none."""
        session = self._session(request.session)
        bar = self._federation.fences.bar_of(session.client)
        wait = min(max(request.max_wait.ToNanoseconds() / 1e9, 0.0), MAX_POLL_SECONDS)
        assignment = await self._cohort.next_assignment(session.client, 0.0 if bar else wait)
        session.last_seen = time.monotonic()
        if assignment is None:
            bar = self._federation.fences.bar_of(session.client)
            return federation_pb2.PollWorkResponse(barred=barred_message(bar))
        if assignment.plan.kind is WorkKind.EVALUATE:
            return federation_pb2.PollWorkResponse(evaluate=_evaluate_work(assignment))
        return federation_pb2.PollWorkResponse(train=_train_work(assignment))

    async def DownloadModel(
        self, request: federation_pb2.DownloadModelRequest, context: Context
    ) -> AsyncIterator[federation_pb2.DownloadModelResponse]:
        """Streams the version that the caller's work names."""
        session = self._session(request.session)
        assignment = self._cohort.assignment(session.client, request.work_id)
        assignment.check_open()
        plan = assignment.plan
        payload = as_bytes(plan.flat)
        header = model_pb2.ModelHeader(
            version=plan.version.number,
            generation=plan.version.generation,
            manifest_digest=self._federation.model.manifest.digest,
            num_bytes=len(payload),
        )
        sent = self._federation.metrics.transfer.labels("sent")
        with assignment.downloading():
            yield federation_pb2.DownloadModelResponse(header=header)
            for chunk in chunks(payload):
                assignment.check_open()
                yield federation_pb2.DownloadModelResponse(chunk=chunk)
                sent.inc(len(chunk))
                session.last_seen = time.monotonic()
            digest = await asyncio.to_thread(checksum, payload)
            trailer = model_pb2.StreamTrailer(xxh3_128=digest)
            yield federation_pb2.DownloadModelResponse(trailer=trailer)

    async def UploadUpdate(
        self,
        request_iterator: AsyncIterator[federation_pb2.UploadUpdateRequest],
        context: Context,
    ) -> federation_pb2.UploadUpdateResponse:
        """Takes an update; it counts once this returns."""
        counted_in = await self._uploads.take(request_iterator)
        return federation_pb2.UploadUpdateResponse(round=counted_in)

    async def ReportEvaluation(
        self, request: federation_pb2.ReportEvaluationRequest, context: Context
    ) -> federation_pb2.ReportEvaluationResponse:
        """Takes the result of evaluation work."""
        session = self._session(request.session)
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

    async def ReportFailure(
        self, request: federation_pb2.ReportFailureRequest, context: Context
    ) -> federation_pb2.ReportFailureResponse:
        """Notes that work could not be done."""
        session = self._session(request.session)
        assignment = self._cohort.assignment(session.client, request.work_id)
        reason = f"it failed: {one_line(request.message, MAX_MESSAGE_LENGTH)}"
        assignment.answer(NoAnswer(session.client, reason))
        return federation_pb2.ReportFailureResponse()

    async def Heartbeat(
        self, request: federation_pb2.HeartbeatRequest, context: Context
    ) -> federation_pb2.HeartbeatResponse:
        """Notes that the client is alive and says whether its work still counts."""
        session = self._session(request.session)
        session.degraded = request.degraded
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
        session = self._session(request.session)
        self._cohort.close(session)
        seen = time.time()
        await self._federation.database.run(
            lambda c: client_rows.record_seen(c, session.client, seen)
        )
        return federation_pb2.LeaveResponse()

    def _session(self, message: federation_pb2.Session) -> Session:
        session = session_of(self._cohort, message)
        session.certificate = callers.certificate()
        return session

    def _stands(self, client: str, work_id: str) -> bool:
        if not work_id:
            return True
        try:
            self._cohort.assignment(client, work_id).check_open()
        except FednotError:
            return False
        return True


def _train_work(assignment: Assignment) -> federation_pb2.TrainWork:
    plan = assignment.plan
    work = federation_pb2.TrainWork(
        work_id=assignment.id,
        round=plan.round,
        phase=round_phase(plan.phase),
        version=plan.version.number,
        generation=plan.version.generation,
        seed=plan.seed_of(assignment.client),
        deadline=timestamp(assignment.deadline_at),
    )
    work.config.update(dict(plan.config))
    return work


def _evaluate_work(assignment: Assignment) -> federation_pb2.EvaluateWork:
    return federation_pb2.EvaluateWork(
        work_id=assignment.id,
        version=assignment.plan.version.number,
        generation=assignment.plan.version.generation,
        deadline=timestamp(assignment.deadline_at),
    )
