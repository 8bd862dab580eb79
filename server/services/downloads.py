"""Admits downloads of a version, whatever carries its bytes."""

from __future__ import annotations

from dataclasses import dataclass

from fednot.errors import FednotError, Reason
from fednot.v1 import federation_pb2, model_pb2
from server.cohorts.remote import Assignment, RemoteCohort, Session
from server.federation import Federation
from server.services.admission import session_of


@dataclass(frozen=True)
class Download:
    """An admitted download and the header that it begins with."""

    session: Session
    assignment: Assignment
    header: model_pb2.ModelHeader


class DownloadDesk:
    """Checks who asks for which version, and from which byte on."""

    def __init__(self, federation: Federation, cohort: RemoteCohort) -> None:
        self._federation = federation
        self._cohort = cohort

    def open(self, request: federation_pb2.DownloadModelRequest) -> Download:
        """Admits a download. Raises FednotError with the reason if it may not be."""
        session = session_of(self._cohort, request.session)
        assignment = self._cohort.assignment(session.client, request.work_id)
        assignment.check_open()
        num_bytes = assignment.broadcast.num_bytes
        if request.offset > num_bytes:
            raise FednotError(
                Reason.INVALID_REQUEST,
                f"offset: the model has {num_bytes} bytes, so none from byte {request.offset} on",
            )
        version = assignment.plan.version
        header = model_pb2.ModelHeader(
            version=version.number,
            generation=version.generation,
            manifest_digest=self._federation.model.manifest.digest,
            num_bytes=num_bytes,
            offset=request.offset,
        )
        return Download(session, assignment, header)
