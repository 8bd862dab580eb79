"""Whole rounds of real processes over the data channel, and its server's end and return."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from support.federation import LocalFederation, eventually
from support.ports import free_port
from support.replay import MANIFEST

from fednot.identity.subject import Role, Subject
from fednot.v1 import operator_pb2

ROUNDS = 2
COMPLETED = operator_pb2.RUN_STATE_COMPLETED


@pytest.fixture(scope="module", params=["plaintext", "tls"])
def federation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalFederation]:
    """c0 and c1 take the data channel, c2 never does."""
    flags = ("--data-address", f"127.0.0.1:{free_port()}")
    folder = tmp_path_factory.mktemp("data")
    insecure = request.param == "plaintext"
    with LocalFederation(folder, server_flags=flags, insecure=insecure) as found:
        found.start_server()
        found.start_client(0)
        found.start_client(1, flags=("--codec", "bf16"))
        found.start_client(2, flags=("--data-channel", "never"))
        found.await_connected(3)
        yield found


def moved(federation: LocalFederation, what: str, direction: str) -> float:
    return federation.metrics()[f'fednot_{what}_bytes_total{{direction="{direction}"}}']


def test_rounds_go_over_the_data_channel_where_clients_take_it(
    federation: LocalFederation,
) -> None:
    """Of three downloads two go over it; of three uploads a whole one and one of half the size."""
    ways = ("data_channel", "transfer")
    kinds = [(way, direction) for way in ways for direction in ("sent", "received")]
    before = [moved(federation, *kind) for kind in kinds]
    run = federation.train(ROUNDS)
    assert (run.state, run.rounds_done) == (COMPLETED, ROUNDS)
    after = [moved(federation, *kind) for kind in kinds]
    sent, received, all_sent, all_received = (
        now - then for now, then in zip(after, before, strict=True)
    )
    nbytes = MANIFEST.nbytes * ROUNDS
    assert (sent, all_sent) == (2 * nbytes, 3 * nbytes)
    assert all_received - received == nbytes
    assert nbytes < received < 1.6 * nbytes
    for row in federation.rounds()[-ROUNDS:]:
        assert (len(row.cohort), len(row.missing)) == (3, 0)


def test_a_server_that_stops_and_comes_back_is_found_again(federation: LocalFederation) -> None:
    assert federation.kill("server", signal.SIGTERM) == 0
    federation.start_server()
    federation.await_connected(3)
    run = federation.train(1)
    assert (run.state, run.rounds_done) == (COMPLETED, 1)
    assert moved(federation, "data_channel", "sent") == 2 * MANIFEST.nbytes


@pytest.mark.parametrize("federation", ["tls"], indirect=True)
def test_a_revoked_client_is_out_on_both_ways(federation: LocalFederation) -> None:
    domain = federation.identities.authority.domain
    federation.identities.authority.revoke(Subject(Role.CLIENT, "c0", domain))
    eventually("c0 has ended", lambda: federation.exit_code("c0") is not None)
    run = federation.train(1)
    assert (run.state, run.rounds_done) == (COMPLETED, 1)
