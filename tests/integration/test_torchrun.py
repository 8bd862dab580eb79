"""A client of two processes under torchrun, over gloo, makes one update, or ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support.federation import CALL, TASK, LocalFederation, eventually

from fednot import model_file
from fednot.identity.subject import Role
from fednot.tensors import views
from fednot.v1 import deletion_pb2, operator_pb2

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


@contextmanager
def torchrun(local: LocalFederation, index: int, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """A client of two ranks; its log is that of the client's name."""
    name = f"c{index}"
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "127.0.0.1:0",
        "--local-addr",
        "127.0.0.1",
    ]
    words += ["-m", "client", "--server", local.address, "--http-address", "", "--device", "cpu"]
    words += ["--identity", str(local.identity_of(Role.CLIENT, name)), "--task", TASK]
    words += ["--state-dir", str(local.folder / name), "--task-arg", f"client={index}", *flags]
    with (local.folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def ranks_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The process ids of torchrun's children, rank 0 first."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def model_of(local: LocalFederation) -> dict[str, torch.Tensor]:
    newest = max(local.versions().items())[1]
    flat, manifest, _ = model_file.read(local.version_file(newest.sha256))
    return views(flat, manifest)


def train(local: LocalFederation) -> operator_pb2.TrainingRun:
    request = operator_pb2.StartTrainingRequest(rounds=2)
    request.policy.min_clients = 1
    request.config.update({"local_epochs": 2})
    local.operator.StartTraining(request, timeout=CALL)
    return local.await_run(90)


def test_two_ranks_make_the_update_of_one_process(tmp_path: Path) -> None:
    """200 digits in batches of 32, 32, ..., 8: each rank has half of every batch.

    Averaging gradients in another order changes the last bits, which shows that both were at it.
    """
    found = []
    for ranks in (1, 2):
        (tmp_path / str(ranks)).mkdir()
        with LocalFederation(tmp_path / str(ranks)) as local:
            local.start_server()
            if ranks == 1:
                local.start_client(0)
                local.await_connected(1)
                run = train(local)
            else:
                with torchrun(local, 0) as process:
                    local.await_connected(1)
                    run = train(local)
                    assert "rank 1 of 2 follows" in local.whole_log("c0")
                    process.send_signal(signal.SIGTERM)
                    process.wait(60)
            assert run.state == operator_pb2.RUN_STATE_COMPLETED, local.log("c0")
            assert not local.rounds()[-1].missing
            found.append(model_of(local))
    alone, together = found
    for name, tensor in alone.items():
        assert torch.allclose(tensor, together[name], atol=1e-4), name
    assert any(not torch.equal(tensor, together[name]) for name, tensor in alone.items())


def test_a_rank_that_dies_ends_the_client_and_the_round_does_not_wait(tmp_path: Path) -> None:
    with LocalFederation(tmp_path) as local:
        local.start_server()
        local.start_client(1)
        local.hold.touch()
        with torchrun(local, 0, "--task-arg", f"hold={local.hold}") as process:
            local.await_connected(2)
            local.start_training(1, min_clients=2, quorum=0.5)
            eventually("rank 0 trains", lambda: "training on version" in local.whole_log("c0"))
            os.kill(ranks_of(process)[1], signal.SIGKILL)
            local.release()
            began = time.monotonic()
            run = local.await_run(60)
            assert run.state == operator_pb2.RUN_STATE_COMPLETED
            assert process.wait(60) != 0
            assert time.monotonic() - began < 120
        assert list(dict.fromkeys(m.client for m in local.rounds()[-1].missing)) == ["c0"]
        assert (
            local.deletions.ListDeletions(deletion_pb2.ListDeletionsRequest(), timeout=CALL)
            == deletion_pb2.ListDeletionsResponse()
        )


def test_a_cancelled_round_leaves_the_ranks_in_step(tmp_path: Path) -> None:
    """Rank 0 learns from the server that the round is over, rank 1 from rank 0."""
    with LocalFederation(tmp_path) as local:
        local.start_server()
        local.hold.touch()
        with torchrun(local, 0, "--task-arg", f"hold={local.hold}"):
            local.await_connected(1)
            local.start_training(1, min_clients=1)
            eventually("rank 0 trains", lambda: "training on version" in local.whole_log("c0"))
            time.sleep(1)
            local.operator.StopTraining(operator_pb2.StopTrainingRequest(), timeout=CALL)
            eventually("it is dropped", lambda: "no longer counts" in local.whole_log("c0"))
            local.release()
            run = train(local)
            assert run.state == operator_pb2.RUN_STATE_COMPLETED
            assert not local.rounds()[-1].missing, local.log("c0")


def test_what_goes_wrong_on_another_rank_is_told_and_the_next_round_counts(tmp_path: Path) -> None:
    """The file `fail` has training raise on the rank that looks first: the other is at its sum."""
    with LocalFederation(tmp_path) as local:
        local.start_server()
        local.start_client(1)
        local.fail.write_text("1")
        with torchrun(local, 0, "--task-arg", f"fail_rank={local.fail}"):
            local.await_connected(2)
            local.start_training(1, min_clients=2, quorum=0.5)
            assert local.await_run(90).state == operator_pb2.RUN_STATE_COMPLETED
            (missing,) = local.rounds()[-1].missing
            assert missing.client == "c0"
            assert "rank 1: RuntimeError: the disk with the digits is gone" in missing.reason
            local.fail.unlink()
            local.start_training(1, min_clients=2, quorum=0.5)
            assert local.await_run(90).state == operator_pb2.RUN_STATE_COMPLETED
            assert not local.rounds()[-1].missing, local.log("c0")
