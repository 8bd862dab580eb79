"""How enums, metrics, times and progress read in a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from fednot.v1 import (
    approval_pb2,
    audit_pb2,
    deletion_pb2,
    federation_pb2,
    identity_pb2,
    model_pb2,
    operator_pb2,
)

_DURATION: Final = re.compile(r"\d+(\.\d+)? ?(s|min|h|seconds?|minutes?|hours?)\b")
_UNITS: Final = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def word(name: Callable[[Any], str], prefix: str, value: int) -> str:
    """The name of an enum's value without its prefix, in small letters."""
    try:
        return name(value).removeprefix(prefix).lower().replace("_", " ")
    except ValueError:
        return str(value)


def run_state(value: int) -> str:
    """The word for a run's state."""
    return word(operator_pb2.RunState.Name, "RUN_STATE_", value)


def client_state(value: int) -> str:
    """The word for a client's state."""
    return word(operator_pb2.ClientState.Name, "CLIENT_STATE_", value)


def anomalies(counts: Mapping[str, int]) -> str:
    """What was odd about a client's updates, most frequent first; "" if nothing was."""
    often = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in often)


def round_outcome(value: int) -> str:
    """The word for a round's outcome."""
    return word(operator_pb2.RoundOutcome.Name, "ROUND_OUTCOME_", value)


def round_phase(value: int) -> str:
    """The word for why a round is run."""
    return word(federation_pb2.RoundPhase.Name, "ROUND_PHASE_", value)


def privacy(spent: federation_pb2.PrivacySpent) -> str:
    """What training under differential privacy has spent, and of how much."""
    of = f" of {spent.epsilon_limit:g}" if spent.epsilon_limit else ""
    return f"epsilon {spent.epsilon:.3f}{of} (delta {spent.delta:g})"


def job_phase(value: int) -> str:
    """The word for a job's phase."""
    return word(deletion_pb2.JobPhase.Name, "JOB_PHASE_", value)


def steps(count: int) -> str:
    """How many steps of its method an attempt has taken, at least one."""
    return f"{count} {'step' if count == 1 else 'steps'} of its method taken"


def assurance(value: int) -> str:
    """The word for how far a deletion is verified."""
    return word(deletion_pb2.Assurance.Name, "ASSURANCE_", value)


def stop_reason(value: int) -> str:
    """The word for why a recovery stopped."""
    return word(deletion_pb2.StopReason.Name, "STOP_REASON_", value)


def origin(value: int) -> str:
    """The word for how a version came to be."""
    return word(model_pb2.VersionOrigin.Name, "VERSION_ORIGIN_", value)


def approval_kind(value: int) -> str:
    """The word for what an approval is for."""
    return word(approval_pb2.ApprovalKind.Name, "APPROVAL_KIND_", value)


def approval_state(value: int) -> str:
    """The word for an approval's state."""
    return word(approval_pb2.ApprovalState.Name, "APPROVAL_STATE_", value)


def audit_outcome(value: int) -> str:
    """The word for what became of what was asked."""
    return word(audit_pb2.AuditOutcome.Name, "AUDIT_OUTCOME_", value)


def role(value: int) -> str:
    """The word for a role; "" for none."""
    return word(identity_pb2.Role.Name, "ROLE_", value) if value else ""


def caller(value: identity_pb2.Caller) -> str:
    """A caller such as `officer/dora`; "" for one without a certificate."""
    return f"{role(value.role)}/{value.name}" if value.role else ""


def approval(value: approval_pb2.Approval) -> str:
    """An approval, as "approval-1: approved by officer/emil, the deletion of client c3"."""
    text = f"{value.id}: {approval_state(value.state)}"
    if value.decided_by.role:
        text += f" by {caller(value.decided_by)}"
    text += f", the {approval_kind(value.kind)}"
    text += f" of client {value.client}" if value.client else ""
    if value.state == approval_pb2.APPROVAL_STATE_WAITING:
        text += f", until {moment(value.expires_at)}"
        text += f"; an officer approves it by `fednot approve {value.id}`"
    return text


def metrics(values: Mapping[str, float]) -> str:
    """Metrics as "accuracy 0.9721, loss 0.0910", accuracy first."""
    names = sorted(values, key=lambda name: (name != "accuracy", name))
    return ", ".join(f"{name} {values[name]:.4f}" for name in names)


def moment(stamp: Timestamp) -> str:
    """A time in UTC, to the second; a dash if it is not set."""
    if not stamp.ByteSize():
        return "-"
    return datetime.fromtimestamp(stamp.seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def size(num_bytes: int) -> str:
    """A number of bytes for people."""
    for unit, factor in _UNITS:
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} B"


def scope(value: deletion_pb2.Scope) -> str:
    """What is to be forgotten; the key of a person as long as the server keeps it."""
    target = value.WhichOneof("target")
    if target == "client":
        return f"client {value.client}"
    if target == "class_label":
        return f"class {value.class_label}"
    if target != "samples":
        return "unknown scope"
    whose = f"samples of client {value.samples.client}"
    if value.samples.HasField("barred"):
        return f"{value.samples.barred.count} {whose}"
    return f"{whose} (subject {value.samples.subject})" if value.samples.subject else whose


def scopes(value: deletion_pb2.Deletion) -> str:
    """All that a deletion forgets."""
    return ", ".join(scope(each) for each in (value.scope, *value.more_scopes))


def confirmations(value: deletion_pb2.Deletion) -> str:
    """What clients were told to bar and said of it; "" if none was told anything."""
    told = value.confirmations
    if not told:
        return ""
    done = [each for each in told if each.HasField("confirmed_at")]
    text = f"{len(done)} of {len(told)} clients have barred it"
    if count := sum(each.barred.count for each in done):
        text += f" ({count} samples)"
    owing = [each.client for each in told if not each.HasField("confirmed_at") and not each.refusal]
    if owing:
        text += f"; not yet: {listed(owing)}"
    refusals = [f"{each.client} cannot: {each.refusal}" for each in told if each.refusal]
    return "; ".join([text, *refusals])


def verdict(value: int) -> str:
    """A verdict, in capitals."""
    return word(deletion_pb2.Verdict.Name, "VERDICT_", value).upper()


def verdicts(value: deletion_pb2.Deletion) -> str:
    """Both verdicts on the model that a deletion left; "" before they are there."""
    found = chosen_verification(value.job)
    if found is None:
        return ""
    return f"behaviour {verdict(found.behaviour)}, depth {verdict(found.depth)}"


def chosen_verification(job: deletion_pb2.Job) -> deletion_pb2.Verification | None:
    """What verification found of the attempt whose model is kept, or of the last one."""
    attempts = [each for each in job.attempts if each.HasField("verification")]
    chosen = [each for each in attempts if each.number == job.chosen_attempt] or attempts
    return chosen[-1].verification if chosen else None


def has_failed(found: deletion_pb2.Verification | None) -> bool:
    """Whether a verdict is FAIL."""
    fail = deletion_pb2.VERDICT_FAIL
    return found is not None and fail in (found.behaviour, found.depth)


def lateness(value: deletion_pb2.Deletion) -> str:
    """When a deletion is due, or that it is late; "" if it has no deadline."""
    if not value.HasField("not_after"):
        return ""
    return f"{'overdue since' if value.overdue else 'due'} {moment(value.not_after)}"


def round_progress(progress: deletion_pb2.RoundProgress) -> str:
    """The round in flight: which updates came and which are missing."""
    text = f"round {progress.round}: {progress.updates} of {progress.cohort} updates"
    missing = listed(progress.missing)
    return f"{text}, missing {missing}" if missing else text


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names in a row, the end cut off if there are many."""
    found = list(names)
    rest = len(found) - most
    return ", ".join(found[:most]) + (f" and {rest} more" if rest > 0 else "")


def timeless(text: str) -> str:
    """A sentence without its durations, so that "last seen 41 s ago" does not count as a change."""
    return _DURATION.sub("", text)
