"""Samples and classes over real sockets: clients are told what to bar, and wait until they did."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.federation import CALL, LocalFederation, eventually
from support.raw_client import RawClient, constant_update, parts_of

from fednot.errors import Reason
from fednot.identity.subject import Role
from fednot.rpc_errors import from_rpc_error
from fednot.v1 import deletion_pb2, federation_pb2

FLAGS = (
    "--log-level",
    "debug",
    "--task-arg",
    "trace=no",
    "--min-clients",
    "1",
    "--round-deadline",
    "5",
    "--heartbeat-interval",
    "60",
)
SCOPE = deletion_pb2.Scope


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path, server_flags=FLAGS) as found:
        found.start_server()
        yield found


def ask(
    federation: LocalFederation, *scopes: SCOPE, request_id: str = "r1", by: str = ""
) -> deletion_pb2.Deletion:
    """A request of the officer's, or of the client of a name."""
    stub = federation.stubs_for(Role.CLIENT, by).deletions if by else federation.deletions
    request = deletion_pb2.UnlearnRequest(
        request_id=request_id, scope=scopes[0], more_scopes=scopes[1:]
    )
    return stub.Unlearn(request, timeout=CALL).deletion


def person(client: str) -> SCOPE:
    return SCOPE(samples=deletion_pb2.SampleScope(client=client, subject="person-1"))


def answer_rounds(client: RawClient, seconds: float) -> set[int]:
    """The rounds of which a client gets work in a time from the first on, each answered at once."""
    found: set[int] = set()
    until = time.monotonic() + CALL
    while time.monotonic() < until:
        work = client.poll()
        assert not work.HasField("forget"), work
        if work.HasField("train"):
            until = until if found else time.monotonic() + seconds
            found.add(work.train.round)
            client.upload(parts_of(client.header(work.train), constant_update(0.001)))
    return found


def cohorts_since(federation: LocalFederation, number: int) -> set[str]:
    return {name for row in federation.rounds() if row.number > number for name in row.cohort}


def test_a_person_is_barred_before_the_client_trains_again(federation: LocalFederation) -> None:
    """The update that was under way when it was asked for does not count."""
    first, second = (RawClient(federation, name) for name in ("c0", "c1"))
    federation.start_training(50)
    under_way = first.train_work()
    deletion = ask(federation, person("c0"))
    assert deletion.job.phase == deletion_pb2.JOB_PHASE_AWAITING
    assert deletion.job.waiting_for.startswith("waiting for client c0 to bar the samples, until ")
    with pytest.raises(grpc.RpcError) as refused:
        first.upload(parts_of(first.header(under_way), constant_update(0.001)))
    error = from_rpc_error(refused.value)
    assert error is not None
    assert error.reason is Reason.CLIENT_BARRED
    before = deletion.aborted_rounds[-1]
    assert answer_rounds(second, 1.5)
    assert cohorts_since(federation, before) == {"c1"}

    work = first.poll().forget
    assert (work.subject, work.lift, work.job_id) == ("person-1", False, deletion.job.id)
    assert first.poll().forget == work, "until it has answered it gets nothing else"
    first.report_forgetting(work.order_id, count=4, sha256="a" * 64, num_train_examples=90)
    first.report_forgetting(work.order_id, count=4, sha256="a" * 64, num_train_examples=90)
    found = federation.deletion("r1")
    assert found.job.phase != deletion_pb2.JOB_PHASE_AWAITING
    assert found.scope.samples == deletion_pb2.SampleScope(client="c0", subject="")
    (confirmation,) = found.confirmations
    assert (confirmation.client, confirmation.barred.count) == ("c0", 4)
    assert federation.client_info("c0").num_train_examples == 90
    recovery = first.train_work()
    assert recovery.phase == federation_pb2.ROUND_PHASE_RECOVERY
    with pytest.raises(grpc.RpcError) as refused:
        first.upload(parts_of(first.header(recovery), constant_update(0.001)))
    error = from_rpc_error(refused.value)
    assert error is not None
    assert error.reason is Reason.WRONG_NUM_EXAMPLES, "it may not count what it has barred"
    assert "person-1" not in federation.whole_log("server")


def test_a_class_is_barred_before_anything_else_by_whoever_joins(
    federation: LocalFederation,
) -> None:
    first = RawClient(federation, "c0")
    deletion = ask(federation, SCOPE(class_label=7))
    work = first.poll().forget
    assert (work.class_label, work.WhichOneof("scope")) == (7, "class_label")
    first.report_forgetting(work.order_id, count=20, num_train_examples=180)
    late = RawClient(federation, "c1")
    told = late.poll().forget
    assert (told.class_label, told.tombstone) == (7, work.tombstone)
    late.leave()
    again = RawClient(federation, "c1")
    assert again.poll().forget == told, "a session ends, what it owes does not"
    again.report_forgetting(told.order_id, count=3)
    clients = [each.client for each in federation.deletion("r1").confirmations]
    assert clients == ["c0", "c1"]
    again.leave()
    assert not RawClient(federation, "c1").poll().HasField("forget")
    stub = federation.stubs_for(Role.CLIENT, "c1").deletions
    request = deletion_pb2.GetDeletionRequest(job_id=deletion.job.id)
    seen = stub.GetDeletion(request, timeout=CALL).deletion
    assert seen.scope.class_label == 7
    assert [each.client for each in seen.confirmations] == ["c1"], "it reads of itself alone"


def test_a_client_without_its_state_directory_bars_the_class_again(
    federation: LocalFederation,
) -> None:
    client = RawClient(federation, "c0", instance="a")
    ask(federation, SCOPE(class_label=7))
    order = client.poll().forget
    client.report_forgetting(order.order_id, count=20)
    client.leave()
    again = RawClient(federation, "c0", instance="a")
    assert not again.poll().HasField("forget")
    again.leave()
    lost = RawClient(federation, "c0", instance="b")
    assert lost.poll().forget == order


def test_a_cancelled_deletion_is_lifted_on_the_client(federation: LocalFederation) -> None:
    client = RawClient(federation, "c0")
    ask(federation, person("c0"))
    barred = client.poll().forget
    cancel = deletion_pb2.CancelDeletionRequest(request_id="r1")
    federation.deletions.CancelDeletion(cancel, timeout=CALL)
    lift = client.poll().forget
    assert (lift.lift, lift.tombstone, lift.subject) == (True, barred.tombstone, "")
    client.report_forgetting(lift.order_id)
    federation.start_training(1)
    client.train_work()


def test_a_client_with_nothing_left_to_train_on_is_in_no_round(federation: LocalFederation) -> None:
    first, second = (RawClient(federation, name) for name in ("c0", "c1"))
    ask(federation, SCOPE(class_label=7))
    for client, left in ((first, 0), (second, 50)):
        order = client.poll().forget.order_id
        client.report_forgetting(order, count=1, num_train_examples=left)
    federation.start_training(50)
    second.num_train_examples = 50
    assert answer_rounds(second, 1.5)
    assert cohorts_since(federation, 0) == {"c1"}


def test_a_barred_client_is_told_once_and_then_waits_for_work(federation: LocalFederation) -> None:
    client = RawClient(federation, "c0")
    federation.unlearn("c0", "r1")
    began = time.monotonic()
    assert client.poll(15.0).barred.request_id == "r1"
    assert time.monotonic() - began < 12.0
    began = time.monotonic()
    assert client.poll(1.0).barred.request_id == "r1"
    assert time.monotonic() - began >= 1.0


def test_a_client_bars_its_own_samples_and_trains_on(federation: LocalFederation) -> None:
    """Nothing is asked of it, for it has barred them before it asked; nor is it barred."""
    client = RawClient(federation, "c0")
    digest = deletion_pb2.SampleDigest(count=2, sha256="b" * 64)
    own = SCOPE(samples=deletion_pb2.SampleScope(barred=digest))
    deletion = ask(federation, own, by="c0")
    assert deletion.scope.samples == deletion_pb2.SampleScope(client="c0", barred=digest)
    assert not deletion.confirmations
    eventually(
        "its job begins",
        lambda: federation.deletion("r1").job.phase != deletion_pb2.JOB_PHASE_QUEUED,
    )
    assert not client.poll().HasField("forget")
    assert not federation.client_info("c0").barred_by
    with pytest.raises(grpc.RpcError) as refused:
        ask(federation, SCOPE(class_label=7), request_id="r2", by="c0")
    error = from_rpc_error(refused.value)
    assert error is not None
    assert error.reason is Reason.NOT_YOUR_DELETION


def test_what_a_task_cannot_forget_is_refused_with_its_reason(federation: LocalFederation) -> None:
    why = {"class": "its loop reads\nall of its data", "unheard-of": "x"}
    RawClient(federation, "c0", unsupported_scopes=why)
    with pytest.raises(grpc.RpcError) as refused:
        ask(federation, SCOPE(class_label=7))
    error = from_rpc_error(refused.value)
    assert error is not None
    assert error.reason is Reason.UNSUPPORTED_SCOPE
    assert "client c0 cannot forget this (class): its loop reads all of its data" in error.message
