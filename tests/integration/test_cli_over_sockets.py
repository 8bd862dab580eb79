"""`fednot` against a server of canned answers on a real loopback socket."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import xxhash
from support.identities import Identities
from support.scripted_server import BROKEN, CUT, SILENCE, ScriptedServer

from fednot import model_file
from fednot.cli import deletion_following, unlearning, views
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.tensors import as_bytes, flatten_module
from fednot.v1 import deletion_pb2, federation_pb2, operator_pb2

PROGRAM = (
    sys.executable,
    "-c",
    "import sys\nfrom fednot.cli.main import main\n"
    "try: main()\nfinally: assert 'torch' not in sys.modules",
)
WAIT = 60.0
Serve = Callable[..., ScriptedServer]


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def serve(identities: Identities) -> Iterator[Serve]:
    servers: list[ScriptedServer] = []

    def start(port: int = 0, plaintext: bool = False, **answers: list[Any]) -> ScriptedServer:
        servers.append(ScriptedServer(answers, None if plaintext else identities, port))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def status(done: int, state: str = "ACTIVE", run: int = 3, **more: Any) -> Any:
    latest = operator_pb2.TrainingRun(
        id=run, rounds=2, rounds_done=done, state=f"RUN_STATE_{state}", failure=more.pop("why", "")
    )
    return operator_pb2.GetStatusResponse(run=latest, clients_connected=3, **more)


def ended(number: int, accuracy: float, phase: str = "TRAINING") -> operator_pb2.Round:
    return operator_pb2.Round(
        number=number,
        phase=f"ROUND_PHASE_{phase}",
        outcome="ROUND_OUTCOME_DEGRADED",
        result_version=number + 1,
        cohort=["c1", "c2"],
        missing=[operator_pb2.MissingClient(client="c2", reason="left")],
        metrics={"accuracy": accuracy},
    )


def rounds(*found: operator_pb2.Round) -> operator_pb2.ListRoundsResponse:
    return operator_pb2.ListRoundsResponse(rounds=found)


STARTED = operator_pb2.StartTrainingResponse(run=status(0).run)
TRAINED: dict[str, list[Any]] = {
    "StartTraining": [STARTED],
    "GetStatus": [
        status(0, waiting_for="waiting for 2 of 3 clients: c7, last seen 41 s ago"),
        status(0, waiting_for="waiting for 2 of 3 clients: c7, last seen 42 s ago"),
        status(1, round=deletion_pb2.RoundProgress(round=8, cohort=2, updates=1, missing=["c2"])),
        status(2, "COMPLETED"),
    ],
    "ListRounds": [
        rounds(),
        rounds(ended(7, 0.5)),
        rounds(ended(9, 0.9), ended(8, 0.1, "RECOVERY"), ended(7, 0.5)),
    ],
}


def test_train_waits_and_tells_each_round(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "SETTLED_SECONDS", WAIT)  # on a busy machine the wait may last
    server = serve(**TRAINED)
    result = server.run("train", "--rounds", "2", "--quorum", "0.5", "--set", "learning_rate=0.1")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "run 3: active",
        "[1 of 2] round 7: degraded, 1 of 2 updates, accuracy 0.5000, c2 missing (left)",
        "[2 of 2] round 9: degraded, 1 of 2 updates, accuracy 0.9000, c2 missing (left)",
        "run 3: completed",
    ]
    [request] = server.script.requests["StartTraining"]
    assert request.rounds == 2
    assert request.policy == operator_pb2.RoundPolicy(quorum=0.5)
    assert dict(request.config) == {"learning_rate": 0.1}


def test_train_in_json_is_a_line_for_each_change(serve: Serve) -> None:
    lines = serve(**TRAINED).lines("train", "--rounds", "2")
    assert [line["run"]["rounds_done"] for line in lines] == [0, 1, 2]
    assert [[each["number"] for each in line["ended_rounds"]] for line in lines] == [[], [7], [9]]
    assert lines[1]["round"]["missing"] == ["c2"]
    assert lines[-1]["run"]["state"] == "RUN_STATE_COMPLETED"


@pytest.mark.parametrize("state", ["FAILED", "STOPPED"])
def test_a_run_that_ends_otherwise_is_exit_code_1(serve: Serve, state: str) -> None:
    server = serve(
        StartTraining=[STARTED],
        GetStatus=[status(1, state, why="no quorum")],
        ListRounds=[rounds()],
    )
    result = server.run("train", "--rounds", "2")
    assert result.exit_code == 1
    assert f"run 3: {state.lower()}: no quorum" in result.stdout


def test_train_detached_and_stop_print_the_run(serve: Serve) -> None:
    stopped = operator_pb2.StopTrainingResponse(run=status(1, "STOPPED").run)
    server = serve(StartTraining=[STARTED], StopTraining=[stopped])
    assert server.json("train", "--rounds", "2", "--detach")["run"]["id"] == 3
    assert server.json("stop")["run"]["state"] == "RUN_STATE_STOPPED"
    assert server.run("stop").stdout == "run 3: stopped, 1 of 2 rounds\n"


def test_waiting_times_out_and_says_for_what(serve: Serve) -> None:
    waiting = status(0, waiting_for="waiting for 2 of 3 clients: c7")
    server = serve(StartTraining=[STARTED], GetStatus=[waiting], ListRounds=[rounds()])
    result = server.run("train", "--rounds", "2", "--wait-timeout", "6")
    assert result.exit_code == 5
    assert "run 3 has not ended after 6 s: waiting for 2 of 3 clients: c7" in result.stderr


def test_waiting_survives_a_restart_of_the_server(serve: Serve) -> None:
    first = serve(StartTraining=[STARTED], GetStatus=[status(0)], ListRounds=[rounds()])

    def restart() -> None:
        by = time.monotonic() + WAIT
        while "GetStatus" not in first.script.requests and time.monotonic() < by:
            time.sleep(0.02)
        first.stop()
        serve(first.port, GetStatus=[status(2, "COMPLETED")], ListRounds=[rounds(ended(7, 0.5))])

    restarting = Thread(target=restart)
    restarting.start()
    result = first.run("train", "--rounds", "2", "--wait-timeout", "60")
    restarting.join()
    assert result.exit_code == 0, result.output
    assert "run 3: completed" in result.stdout.splitlines()


def test_a_refusal_prints_reason_and_remedy(serve: Serve) -> None:
    error = FednotError(Reason.TRAINING_ACTIVE, "run 2 is active", metadata={"run": "2"})
    server = serve(StartTraining=[error])
    result = server.run("train", "--rounds", "2")
    assert result.exit_code == 3
    *said, named = result.stderr.splitlines()
    assert said == [
        "error: run 2 is active",
        "reason: TRAINING_ACTIVE",
        "remedy: Wait for the run, or stop it first.",
    ]
    assert re.fullmatch("call id: [0-9a-f]{32}", named)
    result = server.run("train", "--rounds", "2", "--format", "json")
    assert result.stdout == ""
    told = json.loads(result.stderr)
    assert re.fullmatch("[0-9a-f]{32}", told.pop("call_id"))
    assert told == {
        "error": "run 2 is active",
        "reason": "TRAINING_ACTIVE",
        "remedy": "Wait for the run, or stop it first.",
        "metadata": {"run": "2"},
        "exit_code": 3,
    }


def test_a_loopback_server_may_be_asked_in_plaintext(serve: Serve) -> None:
    server = serve(plaintext=True, GetStatus=[status(1)])
    assert server.where[0] == "--insecure"
    assert server.json("status")["run"]["rounds_done"] == 1


def test_a_silent_server_is_exit_code_4(serve: Serve) -> None:
    result = serve(GetStatus=[SILENCE]).run("status", "--timeout", "0.3")
    assert result.exit_code == 4
    assert "did not answer within 0.3 s" in result.stderr


def deletion(phase: str, **more: Any) -> deletion_pb2.Deletion:
    job = deletion_pb2.Job(id="j1", phase=f"JOB_PHASE_{phase}", **more)
    return deletion_pb2.Deletion(
        request_id="r1", scope=deletion_pb2.Scope(client="c3"), job=job, method="not"
    )


def seen(phase: str, **more: Any) -> deletion_pb2.WatchDeletionResponse:
    return deletion_pb2.WatchDeletionResponse(deletion=deletion(phase, **more))


def attempt(*accuracies: float) -> deletion_pb2.Attempt:
    found = [deletion_pb2.RecoveryRound(metrics={"accuracy": value}) for value in accuracies]
    return deletion_pb2.Attempt(number=1, method="not", tensors=["0.weight"], rounds=found)


ACCEPTED = deletion_pb2.UnlearnResponse(deletion=deletion("QUEUED"))
FOUND = deletion_pb2.GetDeletionResponse(deletion=deletion("QUEUED"))


def test_unlearn_repeats_the_same_request_after_a_lost_reply(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlearning, "RETRY_PAUSES", (0.01, 0.01, 0.01))
    stopping = FednotError(Reason.SHUTTING_DOWN, "stopping")
    server = serve(Unlearn=[CUT, stopping, BROKEN, ACCEPTED])
    result = server.run("unlearn", "client", "c3", "--full-budget", "--round-deadline", "1.5")
    assert result.exit_code == 0
    assert "deletion r1 of client c3: queued" in result.stdout
    first, *others = server.script.requests["Unlearn"]
    assert [first, first, first] == others
    assert result.stderr.startswith(f"request id: {first.request_id}\n")
    assert first.recovery.full_budget
    assert first.recovery.round_deadline.ToMilliseconds() == 1500
    assert not first.recovery.HasField("min_rounds")


def test_unlearn_gives_up_with_the_id_to_repeat(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlearning, "RETRY_PAUSES", (0.01,))
    server = serve(Unlearn=[CUT])
    result = server.run("unlearn", "client", "c3", "--request-id", "mine")
    assert result.exit_code == 4
    assert len(server.script.requests["Unlearn"]) == 2
    assert "repeat it with --request-id mine" in result.stderr


def test_unlearn_waits_across_a_cut_stream(serve: Serve) -> None:
    recovering = seen("RECOVERING", attempts=[attempt(0.5)])
    done = seen("COMPLETED", attempts=[attempt(0.5, 0.9)], released_version=9)
    server = serve(
        Unlearn=[ACCEPTED], WatchDeletion=[[seen("QUEUED"), recovering, CUT], [recovering, done]]
    )
    result = server.run("unlearn", "client", "c3", "--wait")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "deletion r1 of client c3: queued",
        "attempt 1, method not: negates 0.weight",
        "attempt 1, recovery round 1: accuracy 0.5000",
        "deletion r1 of client c3: recovering, attempt 1",
        "attempt 1, recovery round 2: accuracy 0.9000",
        "deletion r1 of client c3: completed, version 9 is released",
    ]
    assert "trying again" in result.stderr


def test_watch_takes_a_job_id_and_ends_with_its_job(serve: Serve) -> None:
    unknown = FednotError(Reason.UNKNOWN_DELETION, "no such request")
    failed = seen("FAILED", failure="no clients are left")
    assert serve(GetDeletion=[unknown]).run("watch", "x").exit_code == 3
    server = serve(GetDeletion=[unknown, FOUND], WatchDeletion=[[seen("QUEUED")], [failed]])
    lines = server.lines("watch", "j1", code=1)
    phases = [line["deletion"]["job"]["phase"] for line in lines]
    assert phases == ["JOB_PHASE_QUEUED", "JOB_PHASE_FAILED"]
    assert {each.job_id for each in server.script.requests["WatchDeletion"]} == {"j1"}
    assert lines[0]["round"] is None


def test_watch_asks_anew_when_a_stream_is_silent(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion_following, "WATCH_SECONDS", 0.8)
    quiet = [seen("AWAITING", waiting_for="waiting for an approval"), SILENCE]
    server = serve(GetDeletion=[FOUND], WatchDeletion=[quiet, quiet, [seen("CANCELLED")]])
    lines = server.lines("watch", "r1", code=1)
    assert len(lines) == 2
    assert len(server.script.requests["WatchDeletion"]) == 3


def test_watch_times_out(serve: Serve) -> None:
    quiet = [seen("AWAITING", waiting_for="waiting for an approval"), SILENCE]
    server = serve(GetDeletion=[FOUND], WatchDeletion=[quiet])
    result = server.run("watch", "r1", "--wait-timeout", "6")
    assert result.exit_code == 5
    assert "waiting for an approval" in result.stderr


def test_jobs_and_cancel(serve: Serve) -> None:
    listed = deletion_pb2.ListDeletionsResponse(deletions=[deletion("RECOVERING")])
    cancelled = deletion_pb2.CancelDeletionResponse(deletion=deletion("CANCELLED"))
    server = serve(ListDeletions=[listed], CancelDeletion=[cancelled])
    assert server.json("jobs")["deletions"][0]["scope"] == {"client": "c3"}
    assert "recovering" in server.run("jobs").stdout
    result = server.run("cancel", "r1")
    assert result.exit_code == 0
    assert result.stdout == "deletion r1 of client c3: cancelled\njob j1\n"


def model() -> tuple[bytes, str]:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    manifest = Manifest.of(module)
    flat = flatten_module(module, manifest)
    return model_file.serialise(flat, manifest), hashlib.sha256(as_bytes(flat)).hexdigest()


def download(payload: bytes, sha256: str) -> list[Any]:
    version = {"number": 4, "sha256": sha256, "released": True, "num_bytes": 32}
    half = len(payload) // 2
    checksum = xxhash.xxh3_128_hexdigest(payload)
    parts = [
        {"header": {"version": version, "num_bytes": len(payload)}},
        {"chunk": payload[:half]},
        {"chunk": payload[half:]},
        {"trailer": {"xxh3_128": checksum}},
    ]
    return [operator_pb2.DownloadVersionResponse(**part) for part in parts]


def test_model_pull_writes_a_checked_file(serve: Serve, tmp_path: Path) -> None:
    payload, sha256 = model()
    server = serve(DownloadVersion=[download(payload, sha256)])
    target = tmp_path / "m.safetensors"
    found = server.json("model", "pull", "-o", str(target), "--version", "4")
    assert target.read_bytes() == payload
    assert (found["version"]["number"], found["num_bytes"]) == (4, len(payload))
    assert server.script.requests["DownloadVersion"][0].version == 4
    assert server.run("model", "pull", "-o", str(target)).exit_code == 2
    assert server.run("model", "pull", "-o", str(target), "--force").exit_code == 0
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("last", "code", "sentence"),
    [
        (CUT, 4, "cannot be reached"),
        (FednotError(Reason.NOT_RELEASED, "withdrawn"), 3, "NOT_RELEASED"),
        (operator_pb2.DownloadVersionResponse(chunk=b"more"), 1, "the download is damaged"),
    ],
)
def test_a_pull_that_fails_leaves_nothing(
    serve: Serve, tmp_path: Path, last: Any, code: int, sentence: str
) -> None:
    server = serve(DownloadVersion=[[*download(*model())[:3], last]])
    result = server.run("model", "pull", "-o", str(tmp_path / "m.safetensors"))
    assert result.exit_code == code, result.output
    assert sentence in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_is_exit_code_130_and_the_run_goes_on(serve: Serve) -> None:
    server = serve(StartTraining=[STARTED], GetStatus=[status(0)], ListRounds=[rounds()])
    process = subprocess.Popen(
        [*PROGRAM, "train", "--rounds", "2", *server.where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "run 3: active\n"
    until = time.monotonic() + WAIT
    while process.poll() is None and time.monotonic() < until:
        # gRPC may swallow one that falls into a callback of its own; people press again.
        process.send_signal(signal.SIGINT)
        time.sleep(2)
    _, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 130
    assert "run 3 goes on" in errors


def test_a_status_table_needs_no_torch(serve: Serve) -> None:
    progress = deletion_pb2.RoundProgress(
        round=8, phase=federation_pb2.ROUND_PHASE_RECOVERY, cohort=2, updates=1, missing=["c2"]
    )
    server = serve(
        GetStatus=[status(1, round=progress, waiting_for="waiting for c2")],
        ListDeletions=[deletion_pb2.ListDeletionsResponse()],
    )
    done = subprocess.run(
        [*PROGRAM, "status", *server.where], capture_output=True, text=True, timeout=WAIT
    )
    assert done.returncode == 0, done.stderr
    assert "round 8: 1 of 2 updates, missing c2 (recovery)" in done.stdout
    assert "waiting for c2" in done.stdout
