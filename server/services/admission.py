"""Checks what a client says of itself and of its work before any of it is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest, ManifestError
from fednot.naming import CLIENT_NAME, one_line
from fednot.unlearning import WORKS
from fednot.v1 import federation_pb2, model_pb2
from fednot.wire import manifest_of
from server.cohorts.remote import RemoteCohort, Session
from server.services import callers

MOST_EXAMPLES: Final = 1 << 48
MOST_METRICS: Final = 32
LONGEST_METRIC: Final = 64
LONGEST_DEVICE: Final = 32
LONGEST_INSTANCE: Final = 64
RATIOS: Final = ("accuracy", "chance")
SHOWN_DIFFERENCES: Final = 5
MOST_TIMES: Final = 4
FEW_TENSORS: Final = 100
SCOPE_KINDS: Final = ("samples", "class", "subject")
LONGEST_REASON: Final = 300


def check_join(client: str, request: federation_pb2.JoinRequest, ours: Manifest) -> None:
    """Checks what the client of a name says when it joins.

    Raises FednotError (INVALID_CLIENT_NAME, INVALID_REQUEST, MANIFEST_TOO_LARGE,
    MANIFEST_MISMATCH).
    """
    check_client_name(client)
    for field in ("num_train_examples", "num_test_examples"):
        if getattr(request, field) > MOST_EXAMPLES:
            raise FednotError(Reason.INVALID_REQUEST, f"{field}: must be at most {MOST_EXAMPLES}")
    _check_manifest(request.manifest, ours)


def check_client_name(name: str) -> None:
    """Raises FednotError (INVALID_CLIENT_NAME) for what no client can be called."""
    if not CLIENT_NAME.fullmatch(name):
        raise FednotError(Reason.INVALID_CLIENT_NAME, f"{name!r} is not a name for a client")


def session_of(cohort: RemoteCohort, message: federation_pb2.Session) -> Session:
    """The caller's live session. Raises FednotError (NOT_YOUR_NAME, UNKNOWN_SESSION)."""
    session = cohort.session(callers.client_name(message.client), message.id)
    session.certificate_expires_at = callers.current().expires_at
    session.certificate = callers.certificate()
    return session


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Raises FednotError (INVALID_REQUEST) for too many metrics, or a ratio that is none."""
    if len(metrics) > MOST_METRICS or any(len(key) > LONGEST_METRIC for key in metrics):
        raise FednotError(
            Reason.INVALID_REQUEST,
            f"metrics: at most {MOST_METRICS}, with names of at most {LONGEST_METRIC} characters",
        )
    for key in RATIOS:
        if not 0.0 <= metrics.get(key, 0.0) <= 1.0:
            raise FednotError(
                Reason.INVALID_REQUEST,
                f"metrics.{key}: {metrics[key]} is no ratio; it must be from 0 to 1",
            )


def unsupported_scopes(request: federation_pb2.JoinRequest) -> dict[str, str]:
    """Which kinds of scope the client's Task cannot forget, and why; unknown kinds are left out."""
    said = request.unsupported_scopes
    return {
        kind: one_line(said[kind], LONGEST_REASON) or "its Task says so"
        for kind in SCOPE_KINDS
        if kind in said
    }


def unlearning_works(said: Iterable[str]) -> frozenset[str]:
    """Which named works a client can do, of those that there are."""
    return frozenset(said) & WORKS.keys()


def device_name(text: str) -> str:
    """The device that a client named, fit to be stored and shown."""
    return one_line(text, LONGEST_DEVICE)


def instance_name(text: str) -> str:
    """What a client calls its state directory, fit to be kept; only compared, never shown."""
    return one_line(text, LONGEST_INSTANCE)


def _check_manifest(message: model_pb2.Manifest, ours: Manifest) -> None:
    if len(message.tensors) > MOST_TIMES * len(ours.tensors) + FEW_TENSORS:
        raise FednotError(
            Reason.MANIFEST_TOO_LARGE,
            f"the client's model has {len(message.tensors)} tensors, the federation's "
            f"{len(ours.tensors)}",
        )
    try:
        theirs = manifest_of(message)
    except (ManifestError, KeyError) as error:
        raise FednotError(Reason.INVALID_REQUEST, f"manifest: {error}") from error
    differences = ours.differences(theirs)
    if differences:
        shown = "; ".join(differences[:SHOWN_DIFFERENCES])
        more = len(differences) - SHOWN_DIFFERENCES
        raise FednotError(
            Reason.MANIFEST_MISMATCH,
            f"the client's model is not the federation's: {shown}"
            + (f"; and {more} more" if more > 0 else ""),
        )
