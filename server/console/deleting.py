"""The form of deletion: from its fields to the request of the call, and what will happen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from fednot import moments
from fednot.errors import FednotError, Reason
from fednot.sentences import moment
from fednot.v1 import deletion_pb2, operator_pb2
from server.services.deletion import MOST_PRIORITY

KINDS: Final = ("client", "samples", "class")
FIELDS: Final = (
    *("kind", "client", "subject", "label", "method", "assurance"),
    *("priority", "not_after", "retain", "request_id"),
)
_LONGEST: Final = 512
_ASSURANCES: Final = {
    "": deletion_pb2.ASSURANCE_UNSPECIFIED,
    "behaviour": deletion_pb2.ASSURANCE_BEHAVIOUR,
    "deep": deletion_pb2.ASSURANCE_DEEP,
}
_MOST_LABEL: Final = (1 << 63) - 1


def request_of(form: Mapping[str, str]) -> deletion_pb2.UnlearnRequest:
    """The request that a form stands for. Raises FednotError (INVALID_REQUEST) naming a field."""
    for name in FIELDS:
        if len(form.get(name, "")) > _LONGEST:
            raise _invalid(name, f"at most {_LONGEST} characters")
    assurance = form.get("assurance", "")
    if assurance not in _ASSURANCES:
        raise _invalid("assurance", "behaviour or deep")
    return deletion_pb2.UnlearnRequest(
        request_id=form.get("request_id", ""),
        scope=_scope(form),
        method=form.get("method", ""),
        assurance=_ASSURANCES[assurance],
        priority=_priority(form.get("priority", "")),
        not_after=_moment(form.get("not_after", "")),
        retain=bool(form.get("retain", "")),
    )


def fixed(form: Mapping[str, str], request: deletion_pb2.UnlearnRequest) -> dict[str, str]:
    """The fields as they are confirmed: "30d" from now becomes the moment that the page showed, so
    that a second try is the same request.
    """
    until = request.not_after.ToJsonString() if request.HasField("not_after") else ""
    return {**{name: form.get(name, "") for name in FIELDS}, "not_after": until}


def what_happens(
    request: deletion_pb2.UnlearnRequest,
    status: operator_pb2.GetStatusResponse,
    *,
    needs_approval: bool,
) -> list[str]:
    """What a deletion does if it is confirmed now, a sentence for each thing."""
    told = [_bar(request.scope)]
    if needs_approval:
        told.append(
            "The job waits until a second identity approves it, here or by “fednot approve”."
        )
    if status.HasField("round"):
        told.append(f"Round {status.round.round}, which runs now, is aborted and done again later.")
    if status.HasField("released"):
        told.append(
            f"Version {status.released.number}, which is released now, is withdrawn at once. "
            "Nobody can take a version out until the job completes and releases a new one."
        )
    if status.open_deletions:
        told.append(
            f"{status.open_deletions} open deletion(s) may go first; waiting ones with an equal "
            "plan are done together."
        )
    deep = request.assurance == deletion_pb2.ASSURANCE_DEEP
    told.append(
        f"The model forgets by the method “{request.method or 'not'}”, recovers on what is kept, "
        "and is verified: "
        + ("until it withstands the undo attack." if deep else "its behaviour as it stands.")
    )
    if request.retain:
        told.append(
            "At the end cached updates are destroyed for good; the older versions are kept, "
            "released to nobody, until an officer lifts the legal hold."
        )
    else:
        told.append("At the end the older versions and cached updates are destroyed for good.")
    if request.priority:
        told.append(f"Among those that wait it has priority {request.priority}; others have 0.")
    if request.HasField("not_after"):
        told.append(f"It is due {moment(request.not_after)}; if it is late then, that is told.")
    told.append(
        "Until the model is changed, “fednot cancel” takes the deletion back; then nothing."
    )
    return told


def _priority(text: str) -> int:
    number = text.removeprefix("-")
    if text and not (number.isascii() and number.isdecimal() and int(number) <= MOST_PRIORITY):
        raise _invalid("priority", f"from -{MOST_PRIORITY} to {MOST_PRIORITY}")
    return int(text or 0)


def _moment(text: str) -> Timestamp | None:
    try:
        return moments.timestamp(text) if text else None
    except ValueError as error:
        raise FednotError(Reason.INVALID_REQUEST, f"not_after: {error}") from error


def _scope(form: Mapping[str, str]) -> deletion_pb2.Scope:
    kind, client = form.get("kind", ""), form.get("client", "")
    if kind == "client":
        return deletion_pb2.Scope(client=client)
    if kind == "samples":
        samples = deletion_pb2.SampleScope(client=client, subject=form.get("subject", ""))
        return deletion_pb2.Scope(samples=samples)
    if kind != "class":
        raise _invalid("kind", "client, samples or class")
    label = form.get("label", "")
    if not (label.isascii() and label.isdecimal() and int(label) <= _MOST_LABEL):
        raise _invalid("label", "the number of a class")
    return deletion_pb2.Scope(class_label=int(label))


def _bar(scope: deletion_pb2.Scope) -> str:
    target = scope.WhichOneof("target")
    if target == "class_label":
        return (
            f"Every client is told to bar class {scope.class_label} from every later round, and "
            "takes part in none before it has."
        )
    if target == "samples":
        return (
            f"Client {scope.samples.client} is told to bar the samples of "
            f"“{scope.samples.subject}” from every later round, and takes part in none before "
            "it has."
        )
    return (
        f"Client {scope.client} is barred from every later round at once, until an operator "
        "readmits it."
    )


def _invalid(field: str, rule: str) -> FednotError:
    return FednotError(Reason.INVALID_REQUEST, f"{field}: must be {rule}")
