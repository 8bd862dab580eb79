"""Methods with steps over real processes: the forgotten client helps, the others recover."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.federation import LocalFederation, refusal

from fednot.errors import Reason
from fednot.v1 import deletion_pb2

FLAGS = ("--min-clients", "2", "--keep-updates", "1", "--no-verify")


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path, server_flags=FLAGS) as federation:
        federation.start_server()
        for index in range(3):
            federation.start_client(index)
        federation.await_connected(3)
        assert federation.train(2).rounds_done == 2
        yield federation


def ended(federation: LocalFederation, method: str) -> deletion_pb2.Job:
    federation.unlearn("c0", f"by-{method}", method=method, max_rounds=1, tolerance=0.9)
    job = federation.await_job(f"by-{method}").job
    assert job.phase == deletion_pb2.JOB_PHASE_COMPLETED, federation.log("server")
    return job


@pytest.mark.parametrize(
    "method", ["pgd", pytest.param("fcu", marks=pytest.mark.long), "not-contrast"]
)
def test_a_method_with_named_work_is_done_by_real_clients(
    trained: LocalFederation, method: str
) -> None:
    (attempt,) = ended(trained, method).attempts
    assert attempt.method == method
    log = trained.log("c0")
    done = {"pgd": "ascend", "fcu": "unlearn-contrast"}
    if method in done:
        assert f"unlearning round 0: {done[method]} on version" in log
    else:
        assert "recovery round 3: train-contrast on version" in trained.log("c1")
        assert "train-contrast" not in log
    assert "no longer barred" not in log


def test_fed_eraser_does_without_the_client_that_is_forgotten(trained: LocalFederation) -> None:
    trained.kill("c0")
    (attempt,) = ended(trained, "fed-eraser").attempts
    assert attempt.method == "fed-eraser"
    assert "calibrate on version" in trained.log("c1")


@pytest.mark.long
def test_fukd_asks_no_client_and_distils_on_the_servers_own_data(tmp_path: Path) -> None:
    flags = ("--task-arg", "proxy=yes")
    with LocalFederation(tmp_path, server_flags=(*FLAGS, *flags)) as federation:
        federation.start_server()
        for index in range(3):
            federation.start_client(index)
        federation.await_connected(3)
        federation.train(2)
        (attempt,) = ended(federation, "fukd").attempts
        assert (attempt.method, len(attempt.steps)) == ("fukd", 2)
        assert "unlearning round" not in federation.log("c1")


def test_what_a_method_needs_is_asked_for_before_anybody_is_barred(
    trained: LocalFederation,
) -> None:
    refused = refusal(lambda: trained.unlearn("c0", "by-fukd", method="fukd"))
    assert refused.reason is Reason.METHOD_NEEDS
    assert trained.status().clients_barred == 0
