"""A client is killed in each phase of its work, in the midst of a recovery, and comes back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.faults.deletions import FEW_ROUNDS, REQUEST, assert_forgotten, await_job
from support.faults.links import Link, link_to
from support.faults.mortal import MortalFederation
from support.faults.soundness import assert_sound
from support.faults.witness import VersionKeeper
from support.federation import eventually

from fednot.v1 import deletion_pb2, operator_pb2

pytestmark = pytest.mark.faults
BY_CLIENTS = ("--task-arg", "server_test=no")
HALF_A_MODEL = 20_000
Reach = Callable[[MortalFederation, Link], None]


@contextmanager
def federation_over_a_link(folder: Path) -> Iterator[tuple[MortalFederation, Link]]:
    """Three clients that also evaluate; c1 is behind a link, its training and tests can be held."""
    with MortalFederation(folder, "", BY_CLIENTS) as federation:
        federation.begin()
        with link_to(federation.port) as link:
            for index in (0, 2):
                federation.start_client(index, "client_test=yes")
            start_c1(federation, link)
            federation.await_clients("c0", "c1", "c2")
            assert federation.run_through(1).state == operator_pb2.RUN_STATE_COMPLETED
            yield federation, link


def start_c1(federation: MortalFederation, link: Link) -> None:
    held = ("client_test=yes", f"hold={federation.hold}", f"hold_test={hold_test(federation)}")
    federation.start_client(1, *held, flags=link.flags)


def hold_test(federation: MortalFederation) -> Path:
    return federation.folder / "hold-test"


def idle(federation: MortalFederation, link: Link) -> None:
    """It has nothing to do, and the deletion has not been asked for."""


def downloading(federation: MortalFederation, link: Link) -> None:
    link.downstream = True
    link.stall_after = HALF_A_MODEL
    begin(federation)
    eventually("half of the model is on its way", lambda: link.stalled)


def training(federation: MortalFederation, link: Link) -> None:
    federation.hold.touch()
    begin(federation)
    eventually("c1 trains", lambda: list(federation.status().round.missing) == ["c1"])


def uploading(federation: MortalFederation, link: Link) -> None:
    federation.hold.touch()
    begin(federation)
    eventually("c1 trains", lambda: list(federation.status().round.missing) == ["c1"])
    link.stall_after = HALF_A_MODEL
    federation.release()
    eventually("half of the update is on its way", lambda: link.stalled)


def evaluating(federation: MortalFederation, link: Link) -> None:
    """The base is evaluated before it is negated."""
    hold_test(federation).touch()
    begin(federation)
    working = operator_pb2.CLIENT_STATE_WORKING
    eventually("c1 evaluates", lambda: federation.client_info("c1").state == working)


def begin(federation: MortalFederation) -> None:
    federation.unlearn("c0", REQUEST, **FEW_ROUNDS)


@pytest.mark.parametrize("reach", [idle, downloading, training, uploading, evaluating])
def test_a_client_may_die_in_each_phase(reach: Reach, tmp_path: Path) -> None:
    """The job waits for it or goes on without it, and says so; when it is back, it takes part."""
    with federation_over_a_link(tmp_path) as (federation, link):
        versions = federation.state / "versions"
        with VersionKeeper(versions, federation.folder / "kept") as keeper:
            reach(federation, link)
            assert federation.kill("c1", signal.SIGKILL) == -9
            link.resume()
            federation.release()
            hold_test(federation).unlink(missing_ok=True)
            begin(federation)
            eventually("it is waited for by name", lambda: is_waited_for(federation))
            start_c1(federation, link)
            ended = await_job(federation, REQUEST)
        assert_forgotten(federation, ended, keeper)
        assert federation.run_through(1).state == operator_pb2.RUN_STATE_COMPLETED
        assert list(federation.rounds()[-1].cohort) == ["c1", "c2"]
        assert federation.deaths == []
        assert federation.kill("server", signal.SIGTERM) == 0
        assert_sound(federation)


def is_waited_for(federation: MortalFederation) -> bool:
    """Before it comes back the job names it; the server may take a lapse to notice its death.

    What it had sent may still arrive after its death, all of it: then the job goes on without it.
    """
    if federation.deletion(REQUEST).job.phase == deletion_pb2.JOB_PHASE_COMPLETED:
        return True
    status = federation.status()
    return "c1, last seen" in status.waiting_for or "c1" in status.round.missing
