"""What verification found, as messages."""

from __future__ import annotations

from fednot.loss_profile import LossProfile
from fednot.v1 import deletion_pb2, federation_pb2
from server.records import Finding, Verdict, Verification
from server.services.moments import timestamp


def verification_message(found: Verification | None) -> deletion_pb2.Verification | None:
    """What verification found of an attempt."""
    if found is None:
        return None
    return deletion_pb2.Verification(
        behaviour=_verdict(found.behaviour.verdict),
        behaviour_reason=found.behaviour.reason,
        depth=_verdict(found.depth.verdict),
        depth_reason=found.depth.reason,
        findings=[_finding(each) for each in found.findings],
        auc_margin=found.thresholds.auc_margin,
        trigger_margin=found.thresholds.trigger_margin,
        forgotten=_profile(found.forgotten),
        unseen=_profile(found.unseen),
        probe_sha256=found.probe_sha256,
        at=timestamp(found.found_at),
    )


def _verdict(verdict: Verdict) -> deletion_pb2.Verdict.ValueType:
    return deletion_pb2.Verdict.Value(f"VERDICT_{verdict.name}")


def _finding(found: Finding) -> deletion_pb2.Finding:
    return deletion_pb2.Finding(model=found.model, rounds=found.rounds, figures=found.figures)


def _profile(profile: LossProfile | None) -> federation_pb2.LossProfile | None:
    if profile is None:
        return None
    return federation_pb2.LossProfile(counts=profile.counts, num_correct=profile.num_correct)
