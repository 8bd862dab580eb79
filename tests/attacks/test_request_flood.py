"""One identity that asks without end, and others who want to be served meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
from support.federation import CALL
from support.hostile.stage import DELETIONS, JOINS, REQUESTS, Stage
from support.hostile.told import attack
from support.raw_client import RawClient
from support.replay import MANIFEST

from fednot.channel import open_channel
from fednot.errors import FednotError, Reason
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role
from fednot.rpc_errors import from_rpc_error
from fednot.v1 import deletion_pb2, federation_pb2, federation_pb2_grpc, operator_pb2
from fednot.wire import manifest_message

SERVED: Final = "served"
THREADS: Final = 4
PASSES: Final = 3
IN_TIME: Final = 5.0
CONNECTIONS: Final = 32
"""What one identity may have, by the server's default."""


def outcome(call: Callable[[], object]) -> FednotError | str:
    """The refusal of a call, or that it was served."""
    try:
        call()
    except grpc.RpcError as error:
        return from_rpc_error(error) or str(error.code())  # type: ignore[attr-defined]
    return SERVED


def flood(
    call: Callable[[], object], count: int, at_least: int
) -> tuple[Counter[str], list[FednotError]]:
    """Makes a call many times, and gives what came of them and the refusals for their number.

    It goes on, for PASSES times as many calls at the most, until `at_least` were refused: a machine
    that is slow gives the limit time to be fed again.
    """
    found: list[FednotError | str] = []
    refused: list[FednotError] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(PASSES):
            found += pool.map(lambda _: outcome(call), range(count))
            errors = [each for each in found if isinstance(each, FednotError)]
            refused = [each for each in errors if each.reason is Reason.TOO_MANY_REQUESTS]
            if len(refused) >= at_least:
                break
    assert len(refused) >= at_least
    return Counter(str(getattr(each, "reason", each)) for each in found), refused


def assert_turned_away(refused: list[FednotError]) -> None:
    for each in refused:
        assert each.retry_after is not None
        assert 0 < each.retry_after <= 60


@attack(
    "a flood of requests",
    sent="as many GetStatus of one operator as it may make in a minute and 1,600 more, at once",
    outcome="TOO_MANY_REQUESTS with RetryInfo beyond the limit; the other operator is served in "
    "time, and the audit has few entries for all of them",
)
def test_a_flood_of_requests(stage: Stage) -> None:
    stub = stage.federation.stubs_for(Role.OPERATOR, "flooder").operator
    noted = len(stage.audit())
    with stage.unmoved(), stage.others_served() as others:
        came, refused = flood(
            lambda: stub.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL),
            REQUESTS + 1600,
            at_least=100,
        )

    stage.note(str(dict(came)))
    assert_turned_away(refused)
    assert set(came) == {SERVED, Reason.TOO_MANY_REQUESTS}
    assert others.failed == []
    assert others.worst < IN_TIME, str(others)
    assert len(stage.audit()) - noted <= 5


@attack(
    "a flood of deletions",
    sent="more Unlearn of a client against another than it may ask for in a minute",
    outcome="NOT_YOUR_DELETION, then TOO_MANY_REQUESTS with RetryInfo; no deletion begins",
)
def test_a_flood_of_deletions(stage: Stage) -> None:
    stub = stage.federation.stubs_for(Role.CLIENT, "flooder").deletions
    request = deletion_pb2.UnlearnRequest(request_id="flood", scope=deletion_pb2.Scope(client="c0"))
    with stage.unmoved():
        came, refused = flood(lambda: stub.Unlearn(request, timeout=CALL), DELETIONS + 80, 20)

    stage.note(str(dict(came)))
    assert_turned_away(refused)
    assert set(came) == {Reason.NOT_YOUR_DELETION, Reason.TOO_MANY_REQUESTS}


def leaves(client: RawClient, session_id: str) -> bool:
    """Whether a session is there; it is ended."""
    session = federation_pb2.Session(client=client.name, id=session_id)
    leave = federation_pb2.LeaveRequest(session=session)
    return outcome(lambda: client.stub.Leave(leave, timeout=CALL)) == SERVED


@attack(
    "a flood of joins",
    sent="a client that joins 120 times as fast as it can",
    outcome="TOO_MANY_REQUESTS with RetryInfo beyond 60 in a minute; it has one session in the end",
)
def test_a_flood_of_joins(stage: Stage) -> None:
    client = RawClient(stage.federation, "joiner", instance="one")
    request = federation_pb2.JoinRequest(
        client="joiner",
        manifest=manifest_message(MANIFEST),
        num_train_examples=200,
        instance="one",
    )
    with stage.unmoved():
        sessions: list[str] = []

        def join() -> None:
            sessions.append(client.stub.Join(request, timeout=CALL).session_id)

        came, refused = flood(join, 2 * JOINS, JOINS // 2)
        live = [each for each in (client.session.id, *sessions) if leaves(client, each)]

    stage.note(str(dict(came)))
    assert len(live) == 1
    assert_turned_away(refused)
    assert set(came) == {SERVED, Reason.TOO_MANY_REQUESTS}


@attack(
    "many connections of one identity",
    sent="40 connections of one client's certificate, each with a call under way",
    outcome="TOO_MANY_CONNECTIONS with RetryInfo beyond 32; the client's own work goes on",
)
def test_many_connections_of_one_identity(stage: Stage) -> None:
    client = RawClient(stage.federation, "hoarder")
    request = federation_pb2.PollWorkRequest(session=client.session)
    request.max_wait.FromSeconds(10)
    identity = stage.identity(name="hoarder")
    channels = [
        open_channel(stage.federation.address, read_credentials(identity)) for _ in range(40)
    ]

    def poll(channel: grpc.Channel) -> FednotError | str:
        stub = federation_pb2_grpc.FederationServiceStub(channel)
        return outcome(lambda: stub.PollWork(request, timeout=CALL))

    with stage.unmoved(), ThreadPoolExecutor(len(channels)) as pool:
        found = list(pool.map(poll, channels))
    for channel in channels:
        channel.close()
    client.leave()
    refused = [each for each in found if isinstance(each, FednotError)]

    stage.note(f"{len(refused)} of {len(found)} refused")
    assert {each.reason for each in refused} == {Reason.TOO_MANY_CONNECTIONS}
    assert len(refused) == len(found) - CONNECTIONS
    assert all(each.retry_after for each in refused)
