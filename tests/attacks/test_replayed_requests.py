"""What was valid once is sent again, by the same or by somebody else."""

from __future__ import annotations

from typing import Any

import pytest
from support.federation import CALL, OPERATOR, refusal
from support.hostile.stage import FORGET, FORGOTTEN, MALLORY, Stage
from support.hostile.told import attack
from support.raw_client import constant_update, parts_of

from fednot.channel import open_enrolment_channel
from fednot.errors import Reason
from fednot.identity import certificates
from fednot.identity.subject import Role, Subject
from fednot.identity.token import Token
from fednot.v1 import deletion_pb2, federation_pb2, identity_pb2, identity_pb2_grpc

UPDATE = constant_update(0.001)


def request_of(client: str, request_id: str, **more: Any) -> deletion_pb2.UnlearnRequest:
    return deletion_pb2.UnlearnRequest(
        request_id=request_id, scope=deletion_pb2.Scope(client=client), **more
    )


@attack(
    "a deletion replayed by its officer",
    sent="the Unlearn of a finished job, once more and with another scope",
    outcome="the same deletion; REQUEST_ID_REUSED",
)
def test_a_deletion_replayed_changes_nothing(stage: Stage) -> None:
    federation = stage.federation
    recovery = {"min_rounds": 1, "max_rounds": 1}
    with stage.unmoved():
        again = federation.unlearn(FORGOTTEN, FORGET, **recovery)
        other = refusal(lambda: federation.unlearn("c0", FORGET, **recovery))

    assert again.job.id == federation.deletion(FORGET).job.id
    assert other.reason is Reason.REQUEST_ID_REUSED


@attack(
    "a deletion replayed by others",
    sent="the same Unlearn by a client and by an operator, and by a client against another",
    outcome="NOT_YOUR_DELETION, WRONG_ROLE",
)
@pytest.mark.parametrize("victim", [FORGOTTEN, "c0"])
def test_a_deletion_replayed_by_another_identity(stage: Stage, victim: str) -> None:
    as_client = stage.federation.stubs_for(Role.CLIENT, MALLORY).deletions
    as_operator = stage.federation.stubs_for(*OPERATOR).deletions
    with stage.unmoved():
        message = request_of(victim, FORGET)
        by_client = refusal(lambda: as_client.Unlearn(message, timeout=CALL))
        by_operator = refusal(lambda: as_operator.Unlearn(message, timeout=CALL))

    assert by_client.reason is Reason.NOT_YOUR_DELETION
    assert by_operator.reason is Reason.WRONG_ROLE


@attack(
    "an update replayed in a later round",
    sent="the UploadUpdate of a round before, as it was; in a new session; as this round's work",
    outcome="UNKNOWN_SESSION; UNKNOWN_WORK in a new session; WRONG_BASE_VERSION",
)
def test_an_update_of_an_old_round(stage: Stage) -> None:
    with stage.open_round() as first:
        old = first.mallory.header(first.work)
        assert first.mallory.upload(parts_of(old, UPDATE)).round == first.work.round
    with stage.open_round() as now, stage.unmoved():
        replayed = now.mallory.header(first.work)
        refused = refusal(lambda: now.mallory.upload(parts_of(replayed, UPDATE)))
        relabelled = now.mallory.header(now.work, base_version=first.work.version)
        stale = refusal(lambda: now.mallory.upload(parts_of(relabelled, UPDATE)))
        gone = refusal(lambda: now.mallory.upload(parts_of(old, UPDATE)))

    assert refused.reason is Reason.UNKNOWN_WORK
    assert stale.reason is Reason.WRONG_BASE_VERSION
    assert gone.reason is Reason.UNKNOWN_SESSION


@attack(
    "an update replayed in its own round",
    sent="the same UploadUpdate a second time, and by another client",
    outcome="DUPLICATE_UPDATE; NOT_YOUR_NAME",
)
def test_an_update_sent_twice(stage: Stage) -> None:
    thief = stage.federation.stubs_for(Role.CLIENT, "thief").clients
    with stage.open_round() as opened:
        header = opened.mallory.header(opened.work)
        opened.mallory.upload(parts_of(header, UPDATE))
        with stage.unmoved():
            again = refusal(lambda: opened.mallory.upload(parts_of(header, UPDATE)))
            by_thief = refusal(
                lambda: thief.UploadUpdate(iter(parts_of(header, UPDATE)), timeout=CALL)
            )

    assert again.reason is Reason.DUPLICATE_UPDATE
    assert by_thief.reason is Reason.NOT_YOUR_NAME


@attack(
    "a session replayed",
    sent="the session of a client that left, by itself and by another",
    outcome="UNKNOWN_SESSION; NOT_YOUR_NAME",
)
def test_a_session_that_ended(stage: Stage) -> None:
    thief = stage.federation.stubs_for(Role.CLIENT, "thief").clients
    with stage.open_round() as opened:
        beat = federation_pb2.HeartbeatRequest(session=opened.mallory.session)
    with stage.unmoved():
        late = refusal(lambda: opened.mallory.stub.Heartbeat(beat, timeout=CALL))
        stolen = refusal(lambda: thief.Heartbeat(beat, timeout=CALL))

    assert late.reason is Reason.UNKNOWN_SESSION
    assert stolen.reason is Reason.NOT_YOUR_NAME


def enrolment(secret: str) -> identity_pb2.EnrollRequest:
    """A request with a new key."""
    asked = certificates.request(Subject(Role.CLIENT, "newcomer"), certificates.new_key())
    return identity_pb2.EnrollRequest(
        secret=secret, certificate_request=certificates.request_pem(asked)
    )


@attack(
    "an enrolment token replayed",
    sent="a used token with another key; a token that nobody made",
    outcome="TOKEN_USED; INVALID_TOKEN",
)
def test_an_enrolment_token_serves_once(stage: Stage) -> None:
    create = identity_pb2.CreateTokenRequest(client="newcomer")
    made = stage.federation.stubs_for(*OPERATOR).identity.CreateToken(create, timeout=CALL)
    secret = Token.parse(made.token).secret
    forged = Token.fresh("newcomer", "fednot", stage.trust).secret

    def enrol(shown: str) -> identity_pb2.EnrollResponse:
        with open_enrolment_channel(stage.enrolment_address, stage.trust) as channel:
            stub = identity_pb2_grpc.EnrolmentServiceStub(channel)
            return stub.Enroll(enrolment(shown), timeout=CALL)

    assert enrol(secret).certificate.chain
    with stage.unmoved():
        again = refusal(lambda: enrol(secret))
        unknown = refusal(lambda: enrol(forged))

    assert again.reason is Reason.TOKEN_USED
    assert unknown.reason is Reason.INVALID_TOKEN
