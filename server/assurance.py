"""Verdicts on a job's attempts, whether another one is made, and which one is kept."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from sqlalchemy import Connection

from fednot import tracing
from server.audit import note_job_verified
from server.federation import Federation
from server.global_model import Draft
from server.plans import next_plan
from server.records import (
    Assurance,
    Attempt,
    AttemptOutcome,
    Job,
    JobPhase,
    Verdict,
    Verification,
    Version,
    VersionOrigin,
)
from server.rounds import Rounds
from server.state import job_rows, version_rows
from server.state.commits import Commit
from server.verification.verdicts import rank
from server.verification.verifier import Verifier

log = logging.getLogger("server.assurance")


def best_attempt(job: Job) -> Attempt | None:
    """The verified attempt to keep: the best by depth, then behaviour, accuracy and number."""
    verified = [a for a in job.attempts if a.outcome is AttemptOutcome.SUCCEEDED and a.verification]
    return max(verified, key=_worth, default=None)


def _worth(attempt: Attempt) -> tuple[int, int, float, int]:
    found = attempt.verification
    if found is None:
        return -1, -1, 0.0, attempt.number
    accuracy = attempt.rounds[-1].metrics.get("accuracy", 0.0) if attempt.rounds else 0.0
    return rank(found.depth), rank(found.behaviour), accuracy, attempt.number


class AssuranceDriver:
    """Verifies what an attempt made, once, and settles what the job keeps."""

    def __init__(self, federation: Federation, rounds: Rounds) -> None:
        self._federation = federation
        self._verifier = Verifier(federation, rounds)

    async def verify(self, job: Job, *, may_go_on: bool) -> None:
        """Writes the verdicts on the last attempt, and with them what follows from them.

        With a deep assurance whose depth fails, and `may_go_on`, that is another attempt.
        """
        federation = self._federation
        attempt, flat = job.attempts[-1], federation.model.flat
        with tracing.span("verification", attempt=attempt.number):
            found = await federation.work.run(self._verifier.verify(job, attempt, flat))
        verified = job_with(job, found)
        another = may_go_on and await self._another(verified, found)
        best = best_attempt(verified)

        def command(connection: Connection) -> None:
            now = time.time()
            job_rows.set_verification(connection, job.id, attempt.number, found)
            note_job_verified(connection, job.id, found, now)
            if another:
                job_rows.move(connection, job, JobPhase.NEGATING, now)
            elif best is not None and best.number == attempt.number:
                job_rows.choose_attempt(connection, job, attempt.number)

        await federation.database.write(Commit.ATTEMPT_VERIFIED, command)
        self._tell(job, attempt, found)

    async def choose(self, job: Job) -> None:
        """Makes the best attempt's last version current again, as a new version.

        Raises ValueError if no attempt was verified.
        """
        federation = self._federation
        best = best_attempt(job)
        if best is None:
            raise ValueError(f"{job.id} has no verified attempt")
        kept, flat = await federation.model.read(best.last_version)
        draft = Draft(
            flat=flat,
            origin=VersionOrigin.CHOSEN,
            parent=kept.number,
            generation=federation.model.current.generation + 1,
            lineage=kept.lineage,
            negated_tensors=kept.negated_tensors,
            metrics=kept.metrics,
        )

        def commit(connection: Connection, _version: Version) -> None:
            job_rows.choose_attempt(connection, job, best.number)
            if job.phase is JobPhase.NEGATING:
                job_rows.move(connection, job, JobPhase.VERIFYING, time.time())

        version = await federation.model.commit(Commit.ATTEMPT_CHOSEN, draft, commit)
        log.info("%s keeps attempt %d, as version %d", job.id, best.number, version.number)

    async def _another(self, job: Job, found: Verification) -> bool:
        if job.assurance is not Assurance.DEEP or found.depth.verdict is not Verdict.FAIL:
            return False
        federation = self._federation
        base = await federation.database.read(
            lambda c: version_rows.get_version(c, job.base_version)
        )
        negated = base.negated_tensors if base else ()
        ladder = federation.defaults.ladder
        return next_plan(job, federation.model.layers, negated, ladder) is not None

    def _tell(self, job: Job, attempt: Attempt, found: Verification) -> None:
        for kind, judged in (("behaviour", found.behaviour), ("depth", found.depth)):
            level = logging.ERROR if judged.verdict is Verdict.FAIL else logging.INFO
            text = "%s attempt %d: %s %s: %s"
            shown = judged.verdict.upper()
            fields = {"attempt": attempt.number, "kind": kind, "verdict": judged.verdict.value}
            log.log(level, text, job.id, attempt.number, kind, shown, judged.reason, extra=fields)
            self._federation.metrics.deletions.judged(kind, judged.verdict)


def job_with(job: Job, found: Verification) -> Job:
    """The job as it is once its last attempt is verified."""
    verified = replace(job.attempts[-1], verification=found)
    return replace(job, attempts=(*job.attempts[:-1], verified))
