"""What the header of an upload must say, before any of its bytes is taken."""

from __future__ import annotations

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.v1 import federation_pb2
from fednot.wire import codec_name
from server.cohorts.cohort import WorkKind
from server.cohorts.remote import Assignment, Session
from server.services.admission import check_metrics


def check_header(
    header: federation_pb2.UpdateHeader,
    session: Session,
    assignment: Assignment,
    manifest: Manifest,
) -> None:
    """Raises FednotError with the reason why an update with this header cannot count."""
    assignment.check_open()
    plan = assignment.plan
    if plan.kind is not WorkKind.TRAIN:
        raise FednotError(Reason.INVALID_REQUEST, "work_id: this work is evaluation")
    if header.manifest_digest != manifest.digest:
        raise FednotError(
            Reason.MANIFEST_MISMATCH,
            f"the update is for manifest {header.manifest_digest!r}, not {manifest.digest}",
        )
    if header.generation != plan.version.generation:
        raise FednotError(
            Reason.STALE_GENERATION,
            f"the update is of generation {header.generation}, not {plan.version.generation}",
        )
    if header.base_version != plan.version.number:
        raise FednotError(
            Reason.WRONG_BASE_VERSION,
            f"the update is against version {header.base_version}, not {plan.version.number}",
        )
    most = session.num_train_examples
    if plan.unlearning is not None:
        most = max(most, plan.unlearning.counts.get(session.client, 0))
    if not 1 <= header.num_examples <= most:
        raise FednotError(
            Reason.WRONG_NUM_EXAMPLES,
            f"the update counts {header.num_examples} examples; "
            f"{session.client} joined with {most}",
        )
    if plan.masked is not None:
        plan.masked.check_upload(session.client, header.num_examples)
    _check_bytes(header, session, manifest)
    check_metrics(header.metrics)


def _check_bytes(header: federation_pb2.UpdateHeader, session: Session, manifest: Manifest) -> None:
    codec = codec_name(header.codec)
    if codec != session.codec.name:
        raise FednotError(
            Reason.INVALID_REQUEST,
            f"codec: the update is encoded as {codec}; at its join the client was given "
            f"{session.codec.name}",
        )
    expected = session.codec.size(manifest)
    if header.num_bytes != expected:
        raise FednotError(
            Reason.WRONG_SIZE,
            f"the stream announces {header.num_bytes} bytes; an update encoded as {codec} has "
            f"{expected}",
        )
