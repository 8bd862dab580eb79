"""Verifications as JSON, as they stand in the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fednot.loss_profile import LossProfile
from server.records import Finding, Judged, Thresholds, Verdict, Verification


def to_json(verification: Verification) -> dict[str, Any]:
    """The JSON object of a verification."""
    return {
        "behaviour": _judged(verification.behaviour),
        "depth": _judged(verification.depth),
        "findings": [
            {"model": found.model, "rounds": found.rounds, "figures": dict(found.figures)}
            for found in verification.findings
        ],
        "thresholds": {
            "auc_margin": verification.thresholds.auc_margin,
            "trigger_margin": verification.thresholds.trigger_margin,
        },
        "found_at": verification.found_at,
        "forgotten": _profile(verification.forgotten),
        "unseen": _profile(verification.unseen),
        "probe_sha256": verification.probe_sha256,
    }


def from_json(found: Mapping[str, Any] | None) -> Verification | None:
    """The verification of a JSON object; None of none."""
    if found is None:
        return None
    return Verification(
        behaviour=_read_judged(found["behaviour"]),
        depth=_read_judged(found["depth"]),
        findings=tuple(
            Finding(one["model"], one["rounds"], one["figures"]) for one in found["findings"]
        ),
        thresholds=Thresholds(**found["thresholds"]),
        found_at=found["found_at"],
        forgotten=_read_profile(found["forgotten"]),
        unseen=_read_profile(found["unseen"]),
        probe_sha256=found["probe_sha256"],
    )


def _judged(judged: Judged) -> dict[str, str]:
    return {"verdict": judged.verdict.value, "reason": judged.reason}


def _read_judged(found: Mapping[str, str]) -> Judged:
    return Judged(Verdict(found["verdict"]), found["reason"])


def _profile(profile: LossProfile | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    return {"counts": list(profile.counts), "num_correct": profile.num_correct}


def _read_profile(found: Mapping[str, Any] | None) -> LossProfile | None:
    return LossProfile(tuple(found["counts"]), found["num_correct"]) if found else None
