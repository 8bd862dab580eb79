"""What was seen of a federation while it worked, for comparing it with what is there at the end."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import torch
from support.federation import CALL, OFFICER, LocalFederation
from support.replay import model_of

from fednot.v1 import audit_pb2, deletion_pb2, operator_pb2

LOOK_EVERY = 0.005
PAGE = 1000
WAITED = ("phase: JOB_PHASE_QUEUED", "phase: JOB_PHASE_AWAITING")


class VersionKeeper:
    """Links every version's file to a folder of its own as it appears: the server destroys them."""

    def __init__(self, versions: Path, kept: Path) -> None:
        self._versions = versions
        self._kept = kept
        kept.mkdir()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        seen: set[str] = set()
        while not self._over.wait(LOOK_EVERY):
            with suppress(FileNotFoundError):
                for path in self._versions.glob("*.safetensors"):
                    if path.name not in seen:
                        (self._kept / path.name).hardlink_to(path)
                        seen.add(path.name)

    def model(self, sha256: str) -> torch.Tensor:
        """The flat model of a version that was there at any time."""
        return model_of(self._kept / f"{sha256}.safetensors")


class Sightings:
    """Rows that the server told of: what was told once must be true for ever."""

    def __init__(self) -> None:
        self.rounds: dict[int, operator_pb2.Round] = {}
        self.versions: dict[int, Any] = {}
        self.jobs: dict[tuple[str, str], str] = {}
        self.steps: set[tuple[str, str]] = set()
        self.head = ""

    def look(self, federation: LocalFederation) -> None:
        """Notes what the server tells just now."""
        self.rounds |= ended_rounds(federation)
        self.versions |= bare_versions(federation)
        self.jobs |= jobs_of(federation)
        self.steps |= steps_of(federation)
        entries = audit_of(federation)
        self.head = entries[-1].hash if entries else self.head

    def assert_kept(self, federation: LocalFederation) -> None:
        """Everything that was seen is there, and the same."""
        for what, seen, found in (
            ("rounds", self.rounds, ended_rounds(federation)),
            ("versions", self.versions, bare_versions(federation)),
        ):
            assert kept_of(seen, found) == seen, f"{what} were lost or changed"
        changed = self._changed_requests(jobs_of(federation))
        assert not changed, f"requests were lost or changed: {changed}"
        lost = self._without_merged(self.steps - steps_of(federation), federation)
        assert not lost, f"steps of jobs were lost or changed: {lost}"
        if self.head:
            assert self.head in {entry.hash for entry in audit_of(federation)}, "the audit is cut"

    def _changed_requests(self, found: Mapping[tuple[str, str], str]) -> set[tuple[str, str]]:
        """Requests that are gone, or that name another job although theirs has begun."""
        begun = self._begun()
        return {
            key
            for key, job in self.jobs.items()
            if found.get(key) != job and (key not in found or job in begun)
        }

    def _begun(self) -> set[str]:
        """Jobs that have done more than wait."""
        return {job for job, step in self.steps if not step.startswith(WAITED)}

    def _without_merged(
        self, lost: set[tuple[str, str]], federation: LocalFederation
    ) -> set[tuple[str, str]]:
        """A job that only ever waited may give way to another, which its request names then."""
        named = set(jobs_of(federation).values()) | self._begun()
        return {(job, step) for job, step in lost if job in named}


def kept_of(seen: Mapping[Any, Any], found: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: found.get(key) for key in seen}


def ended_rounds(federation: LocalFederation) -> dict[int, operator_pb2.Round]:
    running = operator_pb2.ROUND_OUTCOME_RUNNING
    return {row.number: row for row in federation.rounds() if row.outcome != running}


def bare_versions(federation: LocalFederation) -> dict[int, Any]:
    """Versions without what may still happen to them."""
    found = federation.versions()
    for version in found.values():
        version.ClearField("destroyed_at")
        version.ClearField("released")
    return found


def jobs_of(federation: LocalFederation) -> dict[tuple[str, str], str]:
    """The job of each request, by its caller and id."""
    found = deletions_of(federation)
    return {(each.requested_by.name, each.request_id): each.job.id for each in found}


def steps_of(federation: LocalFederation) -> set[tuple[str, str]]:
    """What each job has done: phases with their moments, the starts and steps of its attempts."""
    found = set()
    for job in (each.job for each in deletions_of(federation)):
        found |= {(job.id, str(entry)) for entry in job.history}
        found |= {
            (job.id, f"{attempt.number}: {attempt.start_version} by {list(attempt.tensors)}")
            for attempt in job.attempts
        }
        found |= {
            (job.id, f"{attempt.number}, step {index}: {number}")
            for attempt in job.attempts
            for index, number in enumerate(attempt.steps)
        }
    return found


def deletions_of(federation: LocalFederation) -> list[deletion_pb2.Deletion]:
    request = deletion_pb2.ListDeletionsRequest(page_size=PAGE)
    return list(federation.deletions.ListDeletions(request, timeout=CALL).deletions)


def audit_of(federation: LocalFederation) -> list[audit_pb2.AuditEntry]:
    stub = federation.stubs_for(*OFFICER).audit
    request = audit_pb2.ListAuditEntriesRequest(page_size=PAGE)
    return list(stub.ListAuditEntries(request, timeout=CALL).entries)
