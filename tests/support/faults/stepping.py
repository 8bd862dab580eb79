"""Stories of a server that keeps updates and dies: by steps of a method, and without its files.

Their flags tell the server to keep the updates of every round.
"""

from __future__ import annotations

from support.faults.deletions import FEW_ROUNDS, REQUEST, TARGET, await_job
from support.faults.mortal import MortalFederation
from support.federation import refusal

from fednot.errors import Reason
from fednot.v1 import deletion_pb2, model_pb2

CLIENTS, ROUNDS = 3, 2


def stepped(federation: MortalFederation) -> None:
    """FedEraser: one step of the server's own and one of clients, each taken once."""
    trained(federation)
    federation.persist(
        lambda: federation.unlearn(TARGET, REQUEST, method="fed-eraser", **FEW_ROUNDS)
    )
    job = await_job(federation, REQUEST).job
    assert job.phase == deletion_pb2.JOB_PHASE_COMPLETED, job.failure
    (attempt,) = job.attempts
    versions = federation.persist(federation.versions)
    line = [attempt.start_version, *attempt.steps]
    assert len(line) == 1 + ROUNDS
    made = [v.number for v in versions.values() if v.origin == model_pb2.VERSION_ORIGIN_UNLEARNING]
    assert sorted(made) == line
    assert [versions[number].parent for number in line] == [job.base_version, *line[:-1]]
    assert versions[attempt.rounds[0].version].parent == line[-1]
    kept = federation.persist(federation.status).kept_updates
    assert kept.count == (CLIENTS - 1) * (ROUNDS + len(attempt.rounds)), "nothing of the target's"


def bereft(federation: MortalFederation) -> None:
    """What was kept is gone at the next start, as after a restore; training goes on without."""
    trained(federation)
    assert federation.persist(federation.status).kept_updates.count == CLIENTS * ROUNDS
    federation.kill("server")
    for path in (federation.state / "updates").iterdir():
        path.unlink()
    federation.launch_server()
    federation.revive()
    federation.await_clients("c0", "c1", "c2")
    assert not federation.persist(federation.status).HasField("kept_updates")
    told = refusal(lambda: federation.unlearn(TARGET, REQUEST, method="fed-eraser", **FEW_ROUNDS))
    assert told.reason is Reason.METHOD_NEEDS
    federation.run_through(1)
    assert not federation.persist(federation.status).HasField("kept_updates"), "it is of no use"


def trained(federation: MortalFederation) -> None:
    for index in range(CLIENTS):
        federation.start_client(index)
    federation.await_clients("c0", "c1", "c2")
    federation.run_through(ROUNDS)
