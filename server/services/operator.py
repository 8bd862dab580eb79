"""The service of the operator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash
from grpc import aio
from sqlalchemy import Connection

import fednot
from fednot import calls
from fednot.errors import FednotError, Reason
from fednot.model_file import Source
from fednot.v1 import federation_pb2, model_pb2, operator_pb2, operator_pb2_grpc
from fednot.wire import CHUNK_BYTES
from server.client_states import state_of
from server.cohorts.remote import RemoteCohort, Session
from server.coordinator import Coordinator, released
from server.federation import Federation
from server.privacy import most
from server.records import AuditEvent, ClientRecord, Deletion, Run, RunState, StoredUpdates, Version
from server.refusals import about
from server.services import callers
from server.services.messages import (
    approval_message,
    deletion_message,
    progress_message,
    round_message,
    run_message,
    version_message,
    waiting_sentence,
)
from server.services.moments import timestamp
from server.services.paging import next_token, page_of
from server.services.policies import MAX_ROUNDS, round_policy, training_config
from server.state import (
    audit_rows,
    client_rows,
    deletion_rows,
    job_rows,
    kept_update_rows,
    round_rows,
    version_rows,
)
from server.state.commits import Commit

Context = aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class _Standing:
    """`shown` is the deletion that is served, else the oldest that waits for an approval."""

    current: Version | None
    released: Version | None
    run: Run | None
    shown: Deletion | None
    open_deletions: int
    kept: StoredUpdates


class OperatorServicer(operator_pb2_grpc.OperatorServiceServicer):
    """Training runs, the state of the federation, and released versions."""

    def __init__(
        self, federation: Federation, coordinator: Coordinator, cohort: RemoteCohort
    ) -> None:
        self._federation = federation
        self._coordinator = coordinator
        self._cohort = cohort

    async def StartTraining(
        self, request: operator_pb2.StartTrainingRequest, context: Context
    ) -> operator_pb2.StartTrainingResponse:
        """Starts a run."""
        if not 1 <= request.rounds <= MAX_ROUNDS:
            raise FednotError(Reason.INVALID_REQUEST, "rounds: must be 1 to 1,000,000")
        origin = calls.current()
        run = Run(
            id=0,
            rounds=request.rounds,
            rounds_done=0,
            state=RunState.ACTIVE,
            started_at=time.time(),
            policy=round_policy(request.policy, self._federation.defaults.rounds),
            config=training_config(request.config),
            call_id=origin.call_id,
            traceparent=origin.traceparent,
        )
        started = await self._coordinator.start_training(run, callers.current())
        return operator_pb2.StartTrainingResponse(run=run_message(started))

    async def StopTraining(
        self, request: operator_pb2.StopTrainingRequest, context: Context
    ) -> operator_pb2.StopTrainingResponse:
        """Stops the active run."""
        run = await self._coordinator.stop_training(callers.current())
        return operator_pb2.StopTrainingResponse(run=run_message(run))

    async def GetStatus(
        self, request: operator_pb2.GetStatusRequest, context: Context
    ) -> operator_pb2.GetStatusResponse:
        """Says where the federation stands."""
        standing = await self._federation.database.read(_standing)
        number = standing.released.number if standing.released else 0
        activity, shown = self._federation.activity, standing.shown
        waiting = ""
        if shown:
            longest = self._federation.defaults.confirmation_wait
            waiting = waiting_sentence(
                shown, shown.job.id, activity.waiting_for, confirmation_wait=longest
            )
        return operator_pb2.GetStatusResponse(
            software_version=fednot.__version__,
            current=version_message(standing.current, number),
            released=version_message(standing.released, number),
            run=run_message(standing.run),
            round=progress_message(activity.progress),
            waiting_for=activity.waiting_for,
            clients_connected=len(self._cohort.connected()),
            clients_barred=len(self._federation.fences),
            deletion=deletion_message(shown, waiting) if shown else None,
            open_deletions=standing.open_deletions,
            now=timestamp(time.time()),
            aggregation=self._federation.defaults.rules,
            privacy=self._most_spent(),
            secure_aggregation=self._federation.masking is not None,
            kept_updates=_kept_updates(standing.kept),
        )

    def _most_spent(self) -> federation_pb2.PrivacySpent | None:
        spent = most(session.privacy for session in self._cohort.sessions().values())
        return spent.message() if spent else None

    async def ListClients(
        self, request: operator_pb2.ListClientsRequest, context: Context
    ) -> operator_pb2.ListClientsResponse:
        """Lists clients by name."""
        known = await self._federation.database.read(client_rows.list_clients)
        sessions, working = self._cohort.sessions(), self._cohort.working()
        return operator_pb2.ListClientsResponse(
            clients=[self._client(client, sessions, working) for client in known]
        )

    async def ReadmitClient(
        self, request: operator_pb2.ReadmitClientRequest, context: Context
    ) -> operator_pb2.ReadmitClientResponse:
        """Lifts a client's bar, or asks for the second approval that it takes."""
        name = request.client
        with about(name):
            approval = await self._coordinator.readmit(name, callers.current())
        known = await self._federation.database.read(client_rows.list_clients)
        client = next(found for found in known if found.name == name)
        sessions, working = self._cohort.sessions(), self._cohort.working()
        return operator_pb2.ReadmitClientResponse(
            client=self._client(client, sessions, working),
            approval=approval_message(approval) if approval else None,
        )

    async def ListRounds(
        self, request: operator_pb2.ListRoundsRequest, context: Context
    ) -> operator_pb2.ListRoundsResponse:
        """Lists rounds, newest first."""
        before, size = page_of(request.page_size, request.page_token)
        found = await self._federation.database.read(
            lambda c: round_rows.list_rounds(c, before, size)
        )
        return operator_pb2.ListRoundsResponse(
            rounds=[round_message(row) for row in found],
            next_page_token=next_token(len(found), size, found[-1].number) if found else "",
        )

    async def ListVersions(
        self, request: operator_pb2.ListVersionsRequest, context: Context
    ) -> operator_pb2.ListVersionsResponse:
        """Lists versions, newest first."""
        before, size = page_of(request.page_size, request.page_token)

        def command(connection: Connection) -> tuple[list[Version], int]:
            _, version = version_rows.current_and_released(connection)
            rows = version_rows.list_versions(connection, before, size)
            return list(rows), version.number if version else 0

        found, number = await self._federation.database.read(command)
        return operator_pb2.ListVersionsResponse(
            versions=[version_message(row, number) for row in found],  # type: ignore[misc]
            next_page_token=next_token(len(found), size, found[-1].number) if found else "",
        )

    async def DownloadVersion(
        self, request: operator_pb2.DownloadVersionRequest, context: Context
    ) -> AsyncIterator[operator_pb2.DownloadVersionResponse]:
        """Streams the released version's safetensors file."""
        caller = callers.current()

        def command(connection: Connection) -> Version:
            wanted = _wanted(connection, request.version)
            event = AuditEvent(caller, "OperatorService.DownloadVersion", version=wanted.number)
            audit_rows.append(connection, event, time.time())
            return wanted

        version = await self._federation.database.write(Commit.VERSION_FETCHED, command)
        with await self._federation.model.file_of(version.number) as source:
            header = operator_pb2.VersionHeader(
                version=version_message(version, version.number), num_bytes=source.size
            )
            yield operator_pb2.DownloadVersionResponse(header=header)
            digest = xxhash.xxh3_128()
            while chunk := await self._next_chunk(version, source):
                digest.update(chunk)
                yield operator_pb2.DownloadVersionResponse(chunk=chunk)
        trailer = model_pb2.StreamTrailer(xxh3_128=digest.hexdigest())
        yield operator_pb2.DownloadVersionResponse(trailer=trailer)

    async def _next_chunk(self, version: Version, source: Source) -> bytes:
        """Says that a version was withdrawn, be its bytes still there or not."""
        fault: OSError | None = None
        chunk = b""
        try:
            chunk = await asyncio.to_thread(source.file.read, CHUNK_BYTES)
        except OSError as error:
            fault = error
        await self._federation.database.read(lambda c: _check_not_withdrawn(c, version))
        if fault is not None:
            raise fault
        return chunk

    def _client(
        self, client: ClientRecord, sessions: Mapping[str, Session], working: Collection[str]
    ) -> operator_pb2.ClientInfo:
        session = sessions.get(client.name)
        spent = session.privacy if session else None
        state = state_of(client, sessions, working)
        return operator_pb2.ClientInfo(
            name=client.name,
            state=operator_pb2.ClientState.Value(f"CLIENT_STATE_{state.name}"),
            joined_at=timestamp(client.joined_at),
            last_seen_at=timestamp(self._cohort.last_seen(client.name) or client.last_seen_at),
            num_train_examples=client.num_train_examples,
            num_test_examples=client.num_test_examples,
            device=session.device if session else client.device,
            degraded=session.degraded if session else False,
            barred_by=client.barred_by,
            certificate_expires_at=timestamp(session.certificate_expires_at if session else None),
            anomalies=self._federation.anomalies.of(client.name),
            privacy=spent.message() if spent else None,
        )


def _wanted(connection: Connection, number: int) -> Version:
    version = released(connection)
    if number in (0, version.number):
        return version
    if version_rows.get_version(connection, number) is None:
        raise FednotError(Reason.UNKNOWN_VERSION, f"there is no version {number}")
    raise FednotError(
        Reason.NOT_RELEASED,
        f"version {number} is not released; version {version.number} is: pull that one",
    )


def _check_not_withdrawn(connection: Connection, version: Version) -> None:
    """A later round may release another version; only a deletion withdraws this one."""
    released(connection)
    now = version_rows.get_version(connection, version.number)
    if now is None or now.destroyed_at is not None:
        raise FednotError(
            Reason.VERSION_DESTROYED, f"version {version.number} was destroyed meanwhile"
        )


def _standing(connection: Connection) -> _Standing:
    current, version = version_rows.current_and_released(connection)
    open_jobs = job_rows.open_jobs(connection)
    served = job_rows.first_ready_id(connection) or next((job.id for job in open_jobs), "")
    shown = deletion_rows.get_deletion_of_job(connection, served) if served else None
    kept = kept_update_rows.stored(connection)
    run = round_rows.latest_run(connection)
    return _Standing(current, version, run, shown, len(open_jobs), kept)


def _kept_updates(stored: StoredUpdates) -> operator_pb2.KeptUpdates | None:
    if not stored.count:
        return None
    return operator_pb2.KeptUpdates(count=stored.count, num_bytes=stored.num_bytes)
