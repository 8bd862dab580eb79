"""What a deletion left in the state, read from it: the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from sqlalchemy import Connection

from fednot.manifest import Manifest
from lab.costs import Costs
from server.records import Attempt, Job, JobPhase, Version
from server.state import deletion_rows, round_rows, version_rows
from server.state.database import Database
from server.state.stores.directory import DirectoryStore

ROUNDS_READ: Final = 100_000
UPDATES: Final = "updates"
"""The folder of kept updates in a state directory."""
_CURVES: Final = ("retain", "forget", "backdoor")


@dataclass(frozen=True)
class Outcome:
    """One deletion as the state tells it: `made` are the versions of its steps and rounds, oldest
    first, of all attempts, `flat` is the model that is current now.
    """

    job: Job
    made: tuple[Version, ...]
    flat: torch.Tensor

    @property
    def attempt(self) -> Attempt:
        """The attempt whose model was kept."""
        return self.job.attempts[self.job.chosen_attempt - 1]

    @property
    def began(self) -> float:
        """When its work began, in seconds since the epoch."""
        return next(at for phase, at in self.job.history if phase is JobPhase.NEGATING)

    def curve(self, costs: Costs) -> list[dict[str, Any]]:
        """Scores and costs by step and round, as a result has them; costs add up."""
        found: list[dict[str, Any]] = []
        nbytes, flops = 0, 0
        for index, version in enumerate(self.made, 1):
            cost = costs.rounds.get(version.parent)
            if cost is not None:
                nbytes, flops = nbytes + cost.nbytes, flops + cost.flops
            until = version.created_at
            row: dict[str, Any] = {"number": index, "phase": str(version.origin)}
            row["test"] = version.metrics.get("accuracy")
            row |= {name: version.metrics.get(name) for name in _CURVES}
            row |= {"bytes": nbytes, "flops": flops if costs.counted else None}
            row["seconds"] = until - self.began - costs.evaluating(self.began, until)
            found.append(row)
        return found

    def verification(self) -> dict[str, Any] | None:
        """The verdicts with what they rest on, as a result has them; None without verification."""
        found = self.attempt.verification
        if found is None or not found.findings:
            return None
        return {
            "behaviour": str(found.behaviour.verdict),
            "depth": str(found.depth.verdict),
            "findings": [
                {"name": each.model, "rounds": each.rounds, "figures": dict(each.figures)}
                for each in found.findings
            ],
        }


def read(folder: Path, manifest: Manifest, job_id: str) -> Outcome:
    """Reads what a job did from a state directory."""

    def command(connection: Connection) -> tuple[Job, list[Version], Version]:
        job = deletion_rows.get_deletion_of_job(connection, job_id).job
        numbers = [n for attempt in job.attempts for n in made_by(attempt)]
        found = [version_rows.get_version(connection, number) for number in numbers]
        return job, [version for version in found if version], current_of(connection)

    database = Database(folder / "state.sqlite3")
    try:
        job, made, version = database.read_now(command)
    finally:
        database.close()
    return Outcome(job, tuple(made), flat_of(folder, manifest, version))


def made_by(attempt: Attempt) -> list[int]:
    """The numbers of the versions of an attempt's steps and rounds, oldest first."""
    return [*attempt.steps, *(played.version for played in attempt.rounds)]


def current_of(connection: Connection) -> Version:
    """The current version. Raises LookupError if there is none."""
    version, _ = version_rows.current_and_released(connection)
    if version is None:
        raise LookupError("the state has no current version")
    return version


def current(folder: Path, manifest: Manifest) -> torch.Tensor:
    """The flat model of the current version of a state directory."""
    database = Database(folder / "state.sqlite3")
    try:
        version = database.read_now(current_of)
    finally:
        database.close()
    return flat_of(folder, manifest, version)


def flat_of(folder: Path, manifest: Manifest, version: Version) -> torch.Tensor:
    """The bytes of a version, uint8 of shape [nbytes]."""
    return DirectoryStore(folder / "versions").read(version.sha256, manifest).tensor


def training_curve(folder: Path) -> list[Mapping[str, float]]:
    """The metrics of the rounds of training, oldest first."""
    database = Database(folder / "state.sqlite3")
    try:
        rounds = database.read_now(lambda c: round_rows.list_rounds(c, 0, ROUNDS_READ))
    finally:
        database.close()
    return [r.metrics for r in reversed(rounds) if r.run_id and r.result_version]


def stored(folder: Path) -> tuple[int, int]:
    """The bytes of the models that the state keeps, and of the updates beside them."""
    return size_of(folder / "versions"), size_of(folder / UPDATES)


def size_of(folder: Path) -> int:
    """The bytes of the files in a folder, 0 if it is not there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
