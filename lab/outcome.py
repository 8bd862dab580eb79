"""What a deletion left in the state, read from it: the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from sqlalchemy import Connection

from fednot.manifest import Manifest
from lab.costs import Costs
from server.records import Attempt, Deletion, Job, JobPhase, Round, Version
from server.state import deletion_rows, round_rows, version_rows
from server.state.database import Database
from server.state.stores.directory import DirectoryStore

ROUNDS_READ: Final = 100_000
_CURVES: Final = ("retain", "forget", "backdoor")


@dataclass(frozen=True)
class Outcome:
    """One deletion as the state tells it: its rounds that made a version, oldest first, and the
    version that is current now with its flat model.
    """

    job: Job
    rounds: tuple[Round, ...]
    version: Version
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
        """Scores and costs by round, as a result has them; costs add up from the first round."""
        found: list[dict[str, Any]] = []
        nbytes, flops = 0, 0
        for index, played in enumerate(self.rounds, 1):
            cost = costs.rounds.get(played.number)
            if cost is not None:
                nbytes, flops = nbytes + cost.nbytes, flops + cost.flops
            until = played.ended_at or played.started_at
            row: dict[str, Any] = {"number": index, "phase": str(played.phase)}
            row["test"] = played.metrics.get("accuracy")
            row |= {name: played.metrics.get(name) for name in _CURVES}
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


def read(folder: Path, manifest: Manifest, deletion: Deletion) -> Outcome:
    """Reads the outcome of a deletion from a state directory that no server works on."""

    def command(connection: Connection) -> tuple[Job, Sequence[Round], Version | None]:
        found = deletion_rows.get_deletion_of_job(connection, deletion.job.id)
        rounds = round_rows.list_rounds(connection, 0, ROUNDS_READ)
        return found.job, rounds, version_rows.current_and_released(connection)[0]

    database = Database(folder / "state.sqlite3")
    try:
        job, rounds, version = database.read_now(command)
    finally:
        database.close()
    if version is None:
        raise LookupError(f"{folder} has no current version")
    ours = [r for r in reversed(rounds) if r.job_id == job.id and r.result_version]
    return Outcome(job, tuple(ours), version, flat_of(folder, manifest, version))


def current(folder: Path, manifest: Manifest) -> tuple[Version, torch.Tensor]:
    """The current version of a state directory that no server works on, with its flat model."""
    database = Database(folder / "state.sqlite3")
    try:
        version, _ = database.read_now(version_rows.current_and_released)
    finally:
        database.close()
    if version is None:
        raise LookupError(f"{folder} has no current version")
    return version, flat_of(folder, manifest, version)


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
    """The bytes of the models that the state keeps, and of the history of updates beside them."""
    models = sum(path.stat().st_size for path in (folder / "versions").rglob("*") if path.is_file())
    history = folder / "history"
    kept = (path for path in history.rglob("*") if path.is_file()) if history.is_dir() else ()
    return models, sum(path.stat().st_size for path in kept)
