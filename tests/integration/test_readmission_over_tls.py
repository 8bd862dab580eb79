"""A deletion and a readmission, each approved by a second officer, with clients of production."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.federation import CALL, LocalFederation, eventually, refusal

from fednot.errors import Reason
from fednot.identity.subject import Role
from fednot.v1 import approval_pb2, operator_pb2

EMIL = (Role.OFFICER, "emil")


def approve(federation: LocalFederation, name: str) -> approval_pb2.Approval:
    request = approval_pb2.ApproveRequest(id=name)
    return federation.stubs_for(*EMIL).approvals.Approve(request, timeout=CALL).approval


def readmit(federation: LocalFederation, name: str) -> operator_pb2.ReadmitClientResponse:
    request = operator_pb2.ReadmitClientRequest(client=name)
    return federation.operator.ReadmitClient(request, timeout=CALL)


@pytest.mark.timeout(180)
def test_forgotten_and_readmitted_by_two_people_each(tmp_path: Path) -> None:
    with LocalFederation(
        tmp_path, server_flags=("--task-arg", "trace=no", "--require-approval")
    ) as federation:
        federation.start_server()
        for index in range(3):
            federation.start_client(index)
        federation.await_connected(3)
        federation.train(2)
        asked = federation.unlearn("c0", "forget-c0", max_rounds=2)
        assert asked.requested_by.name == "dora"
        federation.train(1)
        assert list(federation.rounds()[-1].cohort) == ["c1", "c2"], "training goes on without it"
        approve(federation, asked.approval_id)
        federation.await_job("forget-c0")
        info = federation.client_info("c0")
        assert info.state == operator_pb2.CLIENT_STATE_BARRED
        assert info.HasField("certificate_expires_at")

        wanted = readmit(federation, "c0")
        assert wanted.client.barred_by == "forget-c0"
        assert readmit(federation, "c0").approval == wanted.approval
        federation.kill("server")
        federation.start_server()
        federation.await_connected(3)
        assert federation.client_info("c0").barred_by == "forget-c0"
        assert (
            approve(federation, wanted.approval.id).kind == approval_pb2.APPROVAL_KIND_READMISSION
        )
        assert refusal(lambda: readmit(federation, "c0")).reason is Reason.CLIENT_NOT_BARRED

        federation.train(1)
        assert list(federation.rounds()[-1].cohort) == ["c0", "c1", "c2"]
        assert not federation.rounds()[-1].missing
        again = federation.unlearn("c0", "forget-c0-again")
        assert federation.client_info("c0").barred_by == "forget-c0-again"
        assert again.job.id != asked.job.id
        eventually(
            "the client knows",
            lambda: "barred from training" in federation.log("c0").split("no longer")[-1],
        )
