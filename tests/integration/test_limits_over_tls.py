"""A server with small limits: a refusal says why and when to come again, and others are served."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from support.federation import CALL, OFFICER, OPERATOR, LocalFederation, eventually, refusal
from support.identities import Stubs
from support.raw_client import RawClient
from support.replay import MANIFEST

from fednot.errors import Reason
from fednot.identity.subject import Role
from fednot.v1 import deletion_pb2, federation_pb2, operator_pb2
from fednot.wire import manifest_message

FLAGS = (
    *("--requests-per-minute", "100", "--deletions-per-minute", "3", "--joins-per-minute", "2"),
    *("--connections-per-identity", "2", "--heartbeat-interval", "60", "--task-arg", "trace=no"),
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path_factory.mktemp("limits"), server_flags=FLAGS) as found:
        found.start_server()
        yield found


def test_deletions_are_few_and_others_go_on(federation: LocalFederation) -> None:
    deletions = federation.stubs_for(Role.OFFICER, "hasty").deletions
    request = deletion_pb2.CancelDeletionRequest(request_id="nothing")
    reasons = [
        refusal(lambda: deletions.CancelDeletion(request, timeout=CALL)).reason for _ in range(3)
    ]
    assert reasons == [Reason.UNKNOWN_DELETION] * 3
    told = refusal(lambda: deletions.CancelDeletion(request, timeout=CALL))
    assert told.reason is Reason.TOO_MANY_REQUESTS
    assert told.retry_after is not None
    assert 10 < told.retry_after <= 20
    deletions.ListDeletions(deletion_pb2.ListDeletionsRequest(), timeout=CALL)
    other = federation.stubs_for(*OFFICER).deletions
    again = refusal(lambda: other.CancelDeletion(request, timeout=CALL))
    assert again.reason is Reason.UNKNOWN_DELETION


def test_a_flood_of_one_identity_leaves_the_others_alone(federation: LocalFederation) -> None:
    flooding = federation.stubs_for(Role.AUDITOR, "flood").operator
    codes = set()
    for _ in range(10):
        request = operator_pb2.GetStatusRequest()
        calls = [flooding.GetStatus.future(request, timeout=CALL) for _ in range(20)]
        codes |= {call.code() for call in calls}
    assert codes == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert federation.status().now
    refusals = federation.metrics()['fednot_refusals_total{reason="TOO_MANY_REQUESTS"}']
    assert refusals >= 10


def test_a_client_joins_so_often_and_no_more(federation: LocalFederation) -> None:
    for _ in range(2):
        RawClient(federation, "jumpy", instance="one")
    told = refusal(lambda: RawClient(federation, "jumpy", instance="one"))
    assert told.reason is Reason.TOO_MANY_REQUESTS
    assert told.retry_after
    RawClient(federation, "calm")


def polls_begun(federation: LocalFederation) -> float:
    """How many calls of PollWork the server has begun."""
    started = "grpc_server_started_total"
    found = federation.metrics().items()
    return sum(many for name, many in found if name.startswith(started) and "PollWork" in name)


def test_an_identity_waits_over_two_connections_and_no_more(federation: LocalFederation) -> None:
    """A watch is a call that lasts; each is over a connection of its own."""
    folder = federation.identity_of(*OPERATOR)
    stubs = [Stubs.of(federation.address, folder) for _ in range(3)]
    client = RawClient(federation, "waiting")
    own = [
        Stubs.of(federation.address, federation.identity_of(Role.CLIENT, "waiting")) for _ in "ab"
    ]
    request = federation_pb2.PollWorkRequest(session=client.session)
    request.max_wait.FromSeconds(20)
    before = polls_begun(federation)
    polls = [each.clients.PollWork.future(request, timeout=CALL) for each in own]
    try:
        eventually("both wait", lambda: polls_begun(federation) == before + len(polls))
        told = refusal(lambda: client.stub.PollWork(request, timeout=CALL))
        assert told.reason is Reason.TOO_MANY_CONNECTIONS
        assert told.retry_after
        for each in stubs:
            each.operator.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL)
    finally:
        for poll in polls:
            poll.cancel()
        for each in (*stubs, *own):
            each.channel.close()


def test_a_manifest_far_larger_than_the_models_is_not_read(federation: LocalFederation) -> None:
    stub = federation.stubs_for(Role.CLIENT, "large").clients
    message = manifest_message(MANIFEST)
    few = federation_pb2.JoinRequest(manifest=message, num_train_examples=1)
    for _ in range(200):
        few.manifest.tensors.add().CopyFrom(message.tensors[0])
    told = refusal(lambda: stub.Join(few, timeout=CALL))
    assert told.reason is Reason.MANIFEST_TOO_LARGE
    assert "tensors" in told.message
    many = federation_pb2.JoinRequest(num_train_examples=1)
    for _ in range(1_000_000):
        many.manifest.tensors.add()
    told = refusal(lambda: stub.Join(many, timeout=CALL))
    assert told.reason is Reason.MANIFEST_TOO_LARGE
    assert "bytes" in told.message


def test_a_small_call_with_a_large_message_is_not_read(federation: LocalFederation) -> None:
    request = deletion_pb2.UnlearnRequest(request_id="x" * (1 << 20))
    stub = federation.stubs_for(Role.OFFICER, "long").deletions
    told = refusal(lambda: stub.Unlearn(request, timeout=CALL))
    assert told.reason is Reason.INVALID_REQUEST
    assert "bytes" in told.message
    request = deletion_pb2.UnlearnRequest(request_id="x" * (5 << 20))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Unlearn(request, timeout=CALL)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
