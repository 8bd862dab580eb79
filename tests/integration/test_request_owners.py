"""Request ids belong to their callers, and a client sees and asks for its own deletion only.

The clients have joined once and are gone, so that accepted jobs wait and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.federation import CALL, LocalFederation, refusal
from support.identities import Stubs
from support.raw_client import RawClient

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.v1 import deletion_pb2, identity_pb2

CLIENTS = ("c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7")
SAME = "same-id"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("owners")
    with LocalFederation(folder, server_flags=("--task-arg", "trace=no")) as found:
        found.start_server()
        for name in CLIENTS:
            RawClient(found, name).leave()
        yield found


@pytest.fixture(scope="module")
def dora(federation: LocalFederation) -> Stubs:
    return federation.stubs_for(Role.OFFICER, "dora")


@pytest.fixture(scope="module")
def emil(federation: LocalFederation) -> Stubs:
    return federation.stubs_for(Role.OFFICER, "emil")


@pytest.fixture(scope="module")
def twins(dora: Stubs, emil: Stubs) -> tuple[deletion_pb2.Deletion, deletion_pb2.Deletion]:
    """Two officers' requests of the same id, for c0 and c1."""
    return unlearn(dora, "c0", SAME), unlearn(emil, "c1", SAME)


def unlearn(stubs: Stubs, client: str, request_id: str = "") -> deletion_pb2.Deletion:
    """Each client's with a plan of its own, else a job that begins takes over the others' too."""
    plan = deletion_pb2.RecoveryPolicy(max_rounds=20 + sum(client.encode()))
    request = deletion_pb2.UnlearnRequest(
        request_id=request_id, scope=deletion_pb2.Scope(client=client), recovery=plan
    )
    return stubs.deletions.Unlearn(request, timeout=CALL).deletion


def get(stubs: Stubs, **key: str) -> deletion_pb2.Deletion:
    request = deletion_pb2.GetDeletionRequest(**key)
    return stubs.deletions.GetDeletion(request, timeout=CALL).deletion


def listed(stubs: Stubs) -> list[deletion_pb2.Deletion]:
    request = deletion_pb2.ListDeletionsRequest()
    return list(stubs.deletions.ListDeletions(request, timeout=CALL).deletions)


def watch(stubs: Stubs, **key: str) -> deletion_pb2.Deletion:
    stream = stubs.deletions.WatchDeletion(deletion_pb2.WatchDeletionRequest(**key), timeout=CALL)
    first: deletion_pb2.WatchDeletionResponse = next(iter(stream))
    stream.cancel()
    return first.deletion


def cancel(stubs: Stubs, request_id: str) -> deletion_pb2.Deletion:
    request = deletion_pb2.CancelDeletionRequest(request_id=request_id)
    return stubs.deletions.CancelDeletion(request, timeout=CALL).deletion


def test_two_officers_may_use_the_same_id(
    dora: Stubs, emil: Stubs, twins: tuple[deletion_pb2.Deletion, deletion_pb2.Deletion]
) -> None:
    of_dora, of_emil = twins

    assert of_dora.job.id != of_emil.job.id
    assert of_dora.requested_by == identity_pb2.Caller(role=identity_pb2.ROLE_OFFICER, name="dora")
    assert of_emil.requested_by.name == "emil"
    for stubs, own in ((dora, of_dora), (emil, of_emil)):
        assert get(stubs, request_id=SAME).job.id == own.job.id
        assert watch(stubs, request_id=SAME).job.id == own.job.id
        assert unlearn(stubs, own.scope.client, SAME).job.id == own.job.id, "it is repeatable"
    reused = refusal(lambda: unlearn(dora, "c1", SAME))
    assert reused.reason is Reason.REQUEST_ID_REUSED


def test_an_id_of_two_callers_names_neither_to_a_third(
    federation: LocalFederation, twins: tuple[deletion_pb2.Deletion, deletion_pb2.Deletion]
) -> None:
    third = federation.stubs_for(Role.OFFICER, "fred")
    readers = (third, *(federation.stubs_for(role, "x") for role in (Role.OPERATOR, Role.AUDITOR)))
    for stubs in readers:
        for refused in (
            refusal(lambda stubs=stubs: get(stubs, request_id=SAME)),
            refusal(lambda stubs=stubs: watch(stubs, request_id=SAME)),
        ):
            assert refused.reason is Reason.AMBIGUOUS_REQUEST_ID
            for deletion in twins:
                assert deletion.job.id in refused.message
        for deletion in twins:
            assert get(stubs, job_id=deletion.job.id).scope == deletion.scope
    assert refusal(lambda: cancel(third, SAME)).reason is Reason.AMBIGUOUS_REQUEST_ID


def test_an_id_of_one_caller_is_found_by_those_who_may_read_all(
    federation: LocalFederation, dora: Stubs, emil: Stubs
) -> None:
    made = unlearn(dora, "c2", "only-dora")

    for stubs in (emil, federation.stubs_for(Role.AUDITOR, "ann")):
        assert get(stubs, request_id="only-dora").job.id == made.job.id
    another = unlearn(emil, "c3", "only-dora")
    assert another.job.id != made.job.id
    assert get(emil, request_id="only-dora").job.id == another.job.id
    assert cancel(emil, "only-dora").job.id == another.job.id, "the caller's own comes first"
    assert get(dora, request_id="only-dora").job.phase != deletion_pb2.JOB_PHASE_CANCELLED


def test_a_client_asks_for_its_own_deletion_and_for_no_others(
    federation: LocalFederation, dora: Stubs
) -> None:
    itself = federation.stubs_for(Role.CLIENT, "c4")

    refused = refusal(lambda: unlearn(itself, "c5", "mine"))
    unknown = refusal(lambda: unlearn(itself, "nobody", "mine"))
    made = unlearn(itself, "c4", "mine")

    assert refused.reason is Reason.NOT_YOUR_DELETION
    assert unknown.reason is Reason.NOT_YOUR_DELETION, "it does not learn who is a client"
    assert federation.client_info("c5").barred_by == ""
    assert made.requested_by == identity_pb2.Caller(role=identity_pb2.ROLE_CLIENT, name="c4")
    assert federation.client_info("c4").barred_by == "mine"
    assert get(itself, request_id="mine").job.id == made.job.id
    assert cancel(itself, "mine").job.phase == deletion_pb2.JOB_PHASE_CANCELLED
    assert federation.client_info("c4").barred_by == ""
    assert unlearn(itself, "c4", "mine").job.id == made.job.id, "a repeat asks for nothing new"
    soon = refusal(lambda: unlearn(itself, "c4", "mine-again"))
    assert soon.reason is Reason.SERVER_BUSY
    assert 50 < (soon.retry_after or 0) <= 60
    assert unlearn(dora, "c4", "of-dora-about-c4").job.phase == deletion_pb2.JOB_PHASE_QUEUED


def test_no_request_is_named_as_jobs_are(
    federation: LocalFederation, dora: Stubs, emil: Stubs
) -> None:
    """Else a client could catch the cancellation of a job that is not about it."""
    job = unlearn(dora, "c6", "about-c6").job
    itself = federation.stubs_for(Role.CLIENT, "c7")

    for name in (job.id, "job-0123456789ab"):
        refused = refusal(lambda name=name: unlearn(itself, "c7", name))
        assert refused.reason is Reason.INVALID_REQUEST
        assert "request_id" in refused.message

    assert cancel(emil, job.id).scope.client == "c6"
    assert unlearn(itself, "c7", "job-of-c7").request_id == "job-of-c7"


def test_a_client_sees_what_is_about_it_and_nothing_else(
    federation: LocalFederation, dora: Stubs
) -> None:
    """Also what an officer asked for about it."""
    itself = federation.stubs_for(Role.CLIENT, "c5")
    theirs = _any_deletion(dora)
    assert listed(itself) == []

    about_it = unlearn(dora, "c5", "of-dora-about-c5")

    assert [deletion.job.id for deletion in listed(itself)] == [about_it.job.id]
    assert len(listed(dora)) > 1
    assert get(itself, request_id="of-dora-about-c5").job.id == about_it.job.id
    assert watch(itself, job_id=about_it.job.id).job.id == about_it.job.id
    not_asked = refusal(lambda: cancel(itself, "of-dora-about-c5"))
    assert not_asked.reason is Reason.NOT_YOUR_DELETION, "it may see it, not stop it"
    for refused in _attempts_at(itself, theirs):
        assert refused.reason is Reason.UNKNOWN_DELETION
    nothing = refusal(lambda: get(itself, request_id="no such request"))
    found = refusal(lambda: get(itself, request_id=theirs.request_id))
    assert found.message.replace(theirs.request_id, "X") == nothing.message.replace(
        "no such request", "X"
    ), "what exists and what does not read the same"


def _any_deletion(stubs: Stubs) -> deletion_pb2.Deletion:
    """One that is not about c5, of which there is one whichever test ran before."""
    found = [deletion for deletion in listed(stubs) if deletion.scope.client != "c5"]
    return found[0] if found else unlearn(stubs, "c0", SAME)


def _attempts_at(stubs: Stubs, theirs: deletion_pb2.Deletion) -> list[FednotError]:
    attempts: list[Callable[[], Any]] = [
        lambda: get(stubs, request_id=theirs.request_id),
        lambda: get(stubs, job_id=theirs.job.id),
        lambda: watch(stubs, request_id=theirs.request_id),
        lambda: watch(stubs, job_id=theirs.job.id),
        lambda: cancel(stubs, theirs.request_id),
    ]
    return [refusal(attempt) for attempt in attempts]
