"""Verification of deletions within one process, on small digits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Connection, select
from support.in_process import InProcessFederation, in_process
from support.small_digits import CLIENT_SIZE, TEST_SIZE, SmallDigits

from server.cohorts.in_process import InProcessCohort
from server.federation import Defaults
from server.records import (
    Assurance,
    Attempt,
    AttemptOutcome,
    Bar,
    Job,
    JobPhase,
    RecoveryPolicy,
    Scope,
    ScopeKind,
    Thresholds,
    Verdict,
    Verification,
    VerificationPolicy,
    VersionOrigin,
)
from server.rounds import Rounds
from server.state import job_rows, schema, version_rows
from server.verification.verdicts import GONE
from server.verification.verifier import Verifier

POLICY = RecoveryPolicy(max_rounds=2, full_budget=True, min_rounds=1, tolerance=0.9)
SOON = VerificationPolicy(wait=0.2)
ALWAYS_FAILS = VerificationPolicy(thresholds=Thresholds(trigger_margin=-2.0), undo_rounds=0)
"""No trigger lowers the share of its class by two."""


@pytest.fixture
def tasks() -> Mapping[str, SmallDigits]:
    torch.set_num_threads(1)
    return {f"c{index}": SmallDigits(str(index), client_test="yes") for index in range(3)}


def with_probe(folder: Path) -> Path:
    probes = folder / "probes"
    probes.mkdir()
    images = SmallDigits()._digits.inputs[:20].numpy()
    np.savez(probes / "client-c0.npz", trigger_x=images, clean_x=images, trigger_target=np.int64(3))
    return probes


async def test_what_the_target_still_holds_is_compared_with_unseen_samples(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    async with in_process(tmp_path, SmallDigits(), tasks, Defaults()) as federation:
        await federation.train(2)
        deletion = await federation.forget("c0", policy=POLICY)
        events = await audited(federation)
        exposed = federation.federation.metrics.render()[0].decode()
    job = deletion.job
    (attempt,) = job.attempts
    found = attempt.verification
    assert job.phase is JobPhase.COMPLETED
    assert job.chosen_attempt == 1
    assert found is not None
    models = [(one.model, one.rounds) for one in found.findings]
    assert models == [
        ("recovered", 0),
        ("undone: conv1.weight", 0),
        ("undone: conv1.weight", 2),
    ]
    figures = found.findings[0].figures
    assert figures["samples_forgotten"] == CLIENT_SIZE
    assert figures["samples_unseen"] == TEST_SIZE
    assert figures["samples_retained"] == 2 * CLIENT_SIZE
    assert figures["samples_test"] == 3 * TEST_SIZE, "two clients' and the server's"
    assert found.forgotten is not None
    assert found.forgotten.size == CLIENT_SIZE
    assert figures["auc_low"] <= figures["auc"] <= figures["auc_high"]
    verdicts = f"behaviour={found.behaviour.verdict} depth={found.depth.verdict}"
    assert [reason for action, reason in events if action == "job.verified"] == [verdicts]
    counted = f'verdicts_total{{kind="depth",verdict="{found.depth.verdict}"}} 1.0'
    assert counted in exposed


async def test_with_the_target_gone_and_no_probe_there_is_no_verdict(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    defaults = Defaults(verification=SOON)
    async with in_process(tmp_path, SmallDigits(), tasks, defaults) as federation:
        await federation.train(1)
        left = {name: task for name, task in tasks.items() if name != "c0"}
        federation.federation.cohort = InProcessCohort(left)
        deletion = await federation.forget("c0", policy=POLICY)
    assert deletion.job.phase is JobPhase.COMPLETED
    assert deletion.job.released_version
    found = deletion.job.attempts[0].verification
    assert found is not None
    for judged in (found.behaviour, found.depth):
        assert judged.verdict is Verdict.NOT_POSSIBLE
        assert judged.reason == f"{GONE} (c0: it was not there, 0.2 s long)."


async def test_with_the_target_gone_a_probe_decides(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    """Its trigger changes nothing, since both pictures are the same."""
    defaults = Defaults(verification=SOON)
    probes = with_probe(tmp_path)
    async with in_process(tmp_path, SmallDigits(), tasks, defaults, probes) as federation:
        await federation.train(1)
        left = {name: task for name, task in tasks.items() if name != "c0"}
        federation.federation.cohort = InProcessCohort(left)
        deletion = await federation.forget("c0", policy=POLICY)
    found = deletion.job.attempts[0].verification
    assert found is not None
    assert (found.behaviour.verdict, found.depth.verdict) == (Verdict.PASS, Verdict.PASS)
    assert found.findings[0].figures["trigger_effect"] == 0.0
    assert len(found.probe_sha256) == 64


async def test_a_broken_probe_leaves_the_job_whole(
    tmp_path: Path, tasks: Mapping[str, SmallDigits], caplog: pytest.LogCaptureFixture
) -> None:
    probes = tmp_path / "probes"
    probes.mkdir()
    (probes / "client-c0.npz").write_bytes(b"no archive")
    defaults = Defaults(verification=SOON)
    async with in_process(tmp_path, SmallDigits(), tasks, defaults, probes) as federation:
        federation.federation.cohort = InProcessCohort(
            {name: task for name, task in tasks.items() if name != "c0"}
        )
        deletion = await federation.forget("c0", policy=POLICY)
    found = deletion.job.attempts[0].verification
    assert found is not None
    assert found.behaviour.verdict is Verdict.NOT_POSSIBLE
    assert "the probe client-c0.npz cannot be read" in found.behaviour.reason
    assert "a probe cannot be used" in caplog.text


class Breaking(SmallDigits):
    """Cannot tell its losses."""

    def sample_losses(self, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("no such thing")


async def test_a_job_completes_though_every_client_fails_to_look(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    broken = {f"c{index}": Breaking(str(index)) for index in range(3)}
    async with in_process(tmp_path, Breaking(), broken, Defaults()) as federation:
        deletion = await federation.forget("c0", policy=POLICY)
    assert deletion.job.phase is JobPhase.COMPLETED
    found = deletion.job.attempts[0].verification
    assert found is not None
    assert found.behaviour.verdict is Verdict.NOT_POSSIBLE
    assert "RuntimeError" in found.behaviour.reason


async def test_verification_may_be_switched_off(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    defaults = Defaults(verification=VerificationPolicy(enabled=False))
    async with in_process(tmp_path, SmallDigits(), tasks, defaults) as federation:
        deletion = await federation.forget("c0", policy=POLICY)
    found = deletion.job.attempts[0].verification
    assert found is not None
    assert "switched off" in found.depth.reason
    assert found.findings == ()


async def test_a_deep_job_keeps_its_best_attempt_and_shouts_that_it_failed(
    tmp_path: Path, tasks: Mapping[str, SmallDigits], caplog: pytest.LogCaptureFixture
) -> None:
    """No attempt can pass; the first one is the more accurate, and current again at the end."""
    defaults = Defaults(verification=ALWAYS_FAILS, ladder=("first*3", "all-but-last*1"))
    probes = with_probe(tmp_path)
    caplog.set_level(logging.ERROR, "server.assurance")
    async with in_process(tmp_path, SmallDigits(), tasks, defaults, probes) as federation:
        await federation.train(3)
        deletion = await federation.forget("c0", policy=POLICY, assurance=Assurance.DEEP)
        current = federation.federation.model.current
        best = deletion.job.attempts[0].rounds[-1]
        made = await federation.federation.database.read(
            lambda c: version_rows.get_version(c, best.version)
        )
    job = deletion.job
    assert job.phase is JobPhase.COMPLETED
    assert [(attempt.rung, len(attempt.rounds)) for attempt in job.attempts] == [(1, 3), (2, 1)]
    assert all(attempt.outcome is AttemptOutcome.SUCCEEDED for attempt in job.attempts)
    assert "no antichain" in job.attempts[1].warnings[0]
    assert job.chosen_attempt == 1
    assert made is not None
    assert current.origin is VersionOrigin.CHOSEN
    assert (current.sha256, current.parent) == (made.sha256, made.number)
    assert current.number == job.released_version
    assert current.negated_tensors == ("conv1.weight",)
    assert current.generation > made.generation + 1, "no update of the second attempt may count"
    shouted = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len([text for text in shouted if "FAIL" in text]) == 4


async def test_a_deep_job_out_of_time_keeps_what_it_has(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    """The deadline passes in the recovery of the second attempt."""
    defaults = Defaults(verification=ALWAYS_FAILS, ladder=("first*2", "all-but-last*500"))
    probes = with_probe(tmp_path)
    async with in_process(tmp_path, SmallDigits(), tasks, defaults, probes) as federation:
        await federation.train(1)
        running = federation.forget("c0", policy=POLICY, assurance=Assurance.DEEP)
        forgetting = asyncio.create_task(running)
        for _ in range(1000):
            if await federation.federation.database.read(second_attempt_recovers):
                break
            await asyncio.sleep(0.05)
        federation.federation.defaults = replace(defaults, job_deadline=0.01)
        job = (await forgetting).job
    assert (job.phase, job.chosen_attempt) == (JobPhase.COMPLETED, 1)
    assert job.attempts[1].outcome is AttemptOutcome.ABANDONED
    assert job.attempts[1].verification is None


def second_attempt_recovers(connection: Connection) -> bool:
    (job,) = job_rows.open_jobs(connection) or (None,)
    return job is not None and len(job.attempts) == 2 and len(job.attempts[1].rounds) > 0


async def test_samples_and_a_class_are_looked_at_where_they_are(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    data = tasks["c0"].train_data()
    ids = frozenset(data.sample_id(index) for index in range(30))
    async with in_process(tmp_path, SmallDigits(), tasks, Defaults()) as federation:
        federation.federation.cohort = InProcessCohort(tasks, {"c0": {"t": ids}})
        samples = await verified(federation, Scope(ScopeKind.SAMPLES, "c0", tombstone="t"))
        of_class = await verified(federation, Scope(ScopeKind.CLASS, label=7))
        federation.federation.fences.load([Bar("c0", "r", 0.0)], {})
        both = await verified(
            federation, Scope(ScopeKind.CLIENT, "c0"), Scope(ScopeKind.CLIENT, "c9")
        )
    figures = samples.findings[0].figures
    assert figures["samples_forgotten"] == 30
    assert figures["samples_retained"] == 3 * CLIENT_SIZE - 30
    sevens = [
        sum(int(each[index][1]) == 7 for index in range(len(each)))
        for each in (task.train_data() for task in tasks.values())
    ]
    figures = of_class.findings[0].figures
    assert figures["samples_forgotten"] == sum(sevens)
    assert figures["samples_retained"] == 3 * CLIENT_SIZE - sum(sevens)
    assert figures["samples_unseen"] + figures["samples_test"] == 4 * TEST_SIZE
    assert both.behaviour.verdict is not Verdict.PASS
    assert "nobody could look for what c9 had" in both.behaviour.reason


async def verified(running: InProcessFederation, *scopes: Scope) -> Verification:
    """What is found of the model as it stands, for a job of these scopes."""
    federation = running.federation
    federation.defaults = Defaults(
        verification=VerificationPolicy(wait=0.2, undo_rounds=0, thresholds=Thresholds(0.45))
    )
    job = Job(
        id="job-1",
        phase=JobPhase.VERIFYING,
        method="not",
        layers="first",
        allow_unsafe_layers=False,
        policy=POLICY,
        created_at=0.0,
        scopes=scopes,
    )
    attempt = Attempt("job-1", 1, "not", federation.model.layers.first, start_version=1)
    verifier = Verifier(federation, Rounds(federation))
    return await verifier.verify(job, attempt, federation.model.flat)


async def audited(running: InProcessFederation) -> list[tuple[str, str]]:
    rows = await running.federation.database.read(
        lambda c: c.execute(select(schema.audit).order_by(schema.audit.c.sequence)).all()
    )
    return [(row.action, row.reason) for row in rows]
