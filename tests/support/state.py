"""Records to put into a state, and short ways to bring one to where a test begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from server.records import (
    NOBODY,
    Caller,
    ClientRecord,
    Deletion,
    DeletionAsk,
    Job,
    JobPhase,
    RecoveryPolicy,
    Round,
    RoundOutcome,
    RoundPhase,
    RoundPolicy,
    Run,
    RunState,
    Scope,
    ScopeKind,
    Version,
    VersionOrigin,
)
from server.state import client_rows, deletion_rows, job_rows, round_rows, version_rows
from server.state.commits import Commit

BY_TEST = Commit.CLIENTS_SEEN
"""The transaction of a test that writes: it stands in for one that happens all the time."""

DORA, EMIL = Caller(Role.OFFICER, "dora"), Caller(Role.OFFICER, "emil")
OLGA = Caller(Role.OPERATOR, "olga")

AWAITING = JobPhase.AWAITING
QUEUED, NEGATING, RECOVERING = JobPhase.QUEUED, JobPhase.NEGATING, JobPhase.RECOVERING
VERIFYING, COMPLETED, FAILED = JobPhase.VERIFYING, JobPhase.COMPLETED, JobPhase.FAILED
WAYS = {
    QUEUED: (),
    NEGATING: (NEGATING,),
    RECOVERING: (NEGATING, RECOVERING),
    VERIFYING: (NEGATING, RECOVERING, VERIFYING),
    COMPLETED: (NEGATING, RECOVERING, VERIFYING, COMPLETED),
    FAILED: (FAILED,),
}


def version(number: int, origin: str = "training", **values: Any) -> Version:
    fields: dict[str, Any] = {
        "number": number,
        "sha256": f"sha-{number}",
        "parent": number - 1,
        "generation": 0,
        "lineage": 1,
        "origin": VersionOrigin(origin),
        "round": 0 if origin in ("initial", "unlearning") else number,
        "created_at": 1.5,
        "num_bytes": 8,
    }
    return Version(**(fields | values))


def new_round(*cohort: str, **values: Any) -> Round:
    fields: dict[str, Any] = {
        "number": 0,
        "phase": RoundPhase.TRAINING,
        "outcome": RoundOutcome.RUNNING,
        "base_version": 1,
        "cohort": cohort or ("c1", "c2"),
        "started_at": 2.0,
        "run_id": 1,
    }
    return Round(**(fields | values))


def new_run(**values: Any) -> Run:
    policy = RoundPolicy(0.5, 0.25, 1.0, 1, 2.0)
    return Run(0, 2, 0, RunState.ACTIVE, 3.0, policy, {"learning_rate": 0.1}, **values)


def ask(
    request_id: str = "r1", client: str = "c1", digest: str = "d", caller: Caller = NOBODY
) -> DeletionAsk:
    policy = RecoveryPolicy(max_rounds=7, full_budget=True)
    return DeletionAsk(caller, request_id, client, "not", "first", True, policy, digest)


def asking(
    *scopes: Scope, request_id: str = "r1", caller: Caller = NOBODY, **values: Any
) -> DeletionAsk:
    """A request that forgets these scopes."""
    return replace(ask(request_id, "", caller=caller), scopes=scopes, **values)


def whole(name: str) -> Scope:
    return Scope(ScopeKind.CLIENT, client=name)


def of_class(label: int) -> Scope:
    return Scope(ScopeKind.CLASS, label=label)


def of_person(name: str, subject: str = "person-1") -> Scope:
    return Scope(ScopeKind.SAMPLES, client=name, subject=subject)


def barred_by_itself(name: str, digit: str = "a") -> Scope:
    return Scope(ScopeKind.SAMPLES, client=name, count=3, sha256=digit * 64)


def client(name: str, **values: Any) -> ClientRecord:
    fields: dict[str, Any] = {
        "joined_at": 1.0,
        "last_seen_at": 1.0,
        "num_train_examples": 10,
        "num_test_examples": 2,
        "device": "cpu",
    }
    return ClientRecord(name, **(fields | values))


def begun(c: Connection) -> None:
    """Three clients, an active run 1, an initial version 1, and version 2, released."""
    for name in ("c1", "c2", "c3"):
        client_rows.record_join(c, client(name))
    round_rows.start_run(c, new_run())
    version_rows.insert_version(c, version(1, "initial"))
    version_rows.insert_version(c, version(2))
    version_rows.set_released(c, 2)


def accepted(
    c: Connection,
    request_id: str = "r1",
    client: str = "c1",
    caller: Caller = NOBODY,
    until: float | None = None,
) -> Deletion:
    """A deletion by a caller; with `until` it waits that long for an approval."""
    wanted = ask(request_id, client, caller=caller)
    return deletion_rows.accept(c, wanted, now=10.0, approval_until=until)


def deletion_of(c: Connection, request_id: str = "r1", caller: Caller = NOBODY) -> Deletion:
    return deletion_rows.get_deletion(c, request_id, caller)


def cancelled(c: Connection, request_id: str = "r1", caller: Caller = NOBODY) -> Deletion:
    return deletion_rows.cancel(c, request_id, caller, 30.0)


def driven(c: Connection, request_id: str, to: JobPhase) -> Job:
    """Moves a queued job along to a phase."""
    for phase in WAYS[to]:
        job_rows.move(c, deletion_of(c, request_id).job, phase, now=20.0)
    return deletion_of(c, request_id).job


def released(c: Connection) -> int:
    _, found = version_rows.current_and_released(c)
    return found.number if found else 0


def refusal_of(call: Callable[[], object]) -> tuple[Reason, dict[str, str]]:
    with pytest.raises(FednotError) as refusal:
        call()
    return refusal.value.reason, refusal.value.metadata
