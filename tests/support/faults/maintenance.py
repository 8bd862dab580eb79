"""What happens to a state beside its server: commands that die on it, and a ledger that is torn."""

from __future__ import annotations

import signal

from support.faults.deletions import FEW_ROUNDS, REQUEST, TARGET
from support.faults.mortal import MortalFederation
from support.faults.stories import asked_for, barred, joined_once, phase
from support.faults.witness import Sightings
from support.forked import SERVER, Command

from fednot.v1 import deletion_pb2, operator_pb2

LATER_REQUEST, LATER_TARGET = "forget-c1", "c1"
DONE, STATE_ERROR = 0, 3
HALF_A_LINE = b'{"sequence": 1, "torn'
LEDGER_ELSEWHERE = ("--ledger", "{folder}/ledger.jsonl")


def with_a_deletion(federation: MortalFederation) -> None:
    """A negated version, and a job that waits for clients to recover with."""
    joined_once(federation, TARGET, LATER_TARGET)
    asked_for(federation)
    federation.await_that(
        "it is negated", lambda: phase(federation) == deletion_pb2.JOB_PHASE_RECOVERING
    )


def die_of(federation: MortalFederation, *command: str) -> None:
    """Runs a command of `fednot-server` that is killed at the scenario's place."""
    federation.deaths.append(federation.run_command(*command, armed=federation.place).returncode)


def backed_up(federation: MortalFederation) -> None:
    """A backup has its name only if it is whole; else it is made again under the same name."""
    with_a_deletion(federation)
    target = federation.folder / "backup"
    die_of(federation, "backup", str(target))
    if not target.exists():
        said = federation.run_command("backup", str(target))
        assert said.returncode == DONE, said.stderr
    lose(federation)
    said = federation.run_command("restore", str(target))
    assert said.returncode == DONE, said.stderr
    serve_again(federation)
    assert phase(federation) == deletion_pb2.JOB_PHASE_RECOVERING


def restored(federation: MortalFederation) -> None:
    """A restore is there as a whole, or not at all, and then no server takes it for a state."""
    with_a_deletion(federation)
    target = federation.folder / "backup"
    said = federation.run_command("backup", str(target))
    assert said.returncode == DONE, said.stderr
    federation.persist(lambda: federation.unlearn(LATER_TARGET, LATER_REQUEST, **FEW_ROUNDS))
    lose(federation)
    federation.sightings = Sightings()  # what came after the backup begins anew
    die_of(federation, "restore", str(target))
    if "before" in federation.place:
        ended = Command(SERVER, federation.server_arguments()).ended(60)
        assert (ended.returncode, "another federation's" in ended.stderr) == (STATE_ERROR, True)
    again = federation.run_command("restore", str(target))
    if "before" in federation.place:
        assert again.returncode == DONE, again.stderr
    else:
        assert again.returncode == STATE_ERROR
        assert "holds a federation already" in again.stderr
    serve_again(federation)
    for client, request in ((TARGET, REQUEST), (LATER_TARGET, LATER_REQUEST)):
        found = federation.persist(lambda client=client: federation.client_info(client))  # type: ignore
        assert found.barred_by == request


def ledger_renewed(federation: MortalFederation) -> None:
    """The ledger is lost, and written anew from the rows, however often that is asked for."""
    with_a_deletion(federation)
    assert federation.kill("server", signal.SIGTERM) == 0
    ledger = federation.state / "ledger.jsonl"
    ledger.unlink()
    die_of(federation, "renew-ledger")
    said = federation.run_command("renew-ledger")
    assert said.returncode == DONE, said.stderr
    serve_again(federation)
    assert REQUEST in ledger.read_text()
    assert barred(federation) == REQUEST


def torn_line(federation: MortalFederation) -> None:
    """What a crash left of a line is cut off at the start."""
    federation.persist(federation.status)
    assert federation.kill("server", signal.SIGTERM) == 0
    leave_half_a_line(federation)
    federation.launch_server()
    federation.revive()
    with_a_deletion(federation)
    assert HALF_A_LINE not in (federation.state / "ledger.jsonl").read_bytes()


def failed_append(federation: MortalFederation) -> None:
    """What a full disk left of a line is cut off before the next one."""
    joined_once(federation, TARGET)
    leave_half_a_line(federation)
    asked_for(federation)
    assert barred(federation) == REQUEST
    assert HALF_A_LINE not in (federation.state / "ledger.jsonl").read_bytes()


def leave_half_a_line(federation: MortalFederation) -> None:
    with (federation.state / "ledger.jsonl").open("ab") as file:
        file.write(HALF_A_LINE)


def resumed_round(federation: MortalFederation) -> None:
    """A round that outlives two deaths of the server keeps its number, and counts once."""
    for index in range(2):
        federation.start_client(index, held=True)
    federation.await_clients("c0", "c1")
    federation.begin_run(1)
    federation.await_that("a round runs", lambda: federation.status().HasField("round"))
    federation.kill("server")
    serve_again(federation)
    federation.release()
    assert federation.run_ended().state == operator_pb2.RUN_STATE_COMPLETED
    (row,) = federation.persist(federation.rounds)
    assert (row.number, row.outcome) == (1, operator_pb2.ROUND_OUTCOME_COMPLETED)


def lose(federation: MortalFederation) -> None:
    """The state is out of reach, and an empty one takes its place."""
    federation.kill("server")
    federation.state = federation.folder / "restored"


def serve_again(federation: MortalFederation) -> None:
    federation.launch_server()
    federation.revive()
