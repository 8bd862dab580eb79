"""Orders to destroy come before all other work, and what is reported is fit to be kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.served import CALL, refusal, served

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.v1 import federation_pb2 as pb
from fednot.v1.federation_pb2_grpc import FederationServiceStub
from fednot.wire import manifest_message
from server.destruction import DestroyedCache, DestroyOrder, NoDestructions, check_report

SHA = "ab" * 32


class OneOrder:
    """An order for c1, until it is answered."""

    def __init__(self) -> None:
        self.open = True
        self.reports: list[tuple[str, str, Sequence[DestroyedCache]]] = []

    async def pending(self, client: str) -> DestroyOrder | None:
        return DestroyOrder("7", 3, "job-1") if client == "c1" and self.open else None

    async def acknowledge(
        self, client: str, order_id: str, destroyed: Sequence[DestroyedCache]
    ) -> None:
        self.reports.append((client, order_id, destroyed))
        self.open = False


async def test_an_order_comes_until_it_is_reported(tmp_path: Path) -> None:
    async with served(tmp_path) as found:
        found.federation.destructions = orders = OneOrder()
        for name, told in (("c1", True), ("c2", False)):
            stub = FederationServiceStub(found.dial(Role.CLIENT, name))
            manifest = manifest_message(found.federation.model.manifest)
            joined = await stub.Join(pb.JoinRequest(manifest=manifest), timeout=CALL)
            session = pb.Session(id=joined.session_id)
            for _ in range(2):
                poll = await stub.PollWork(pb.PollWorkRequest(session=session), timeout=CALL)
                assert poll.HasField("destroy") is told
                assert not told or poll.destroy == pb.DestroyWork(
                    order_id="7", generation=3, job_id="job-1"
                )
            destroyed = [pb.DestroyedCache(kind="residual", sha256=SHA, num_bytes=8)]
            report = pb.ReportDestructionRequest(
                session=session, order_id="7", destroyed=destroyed if told else []
            )
            await stub.ReportDestruction(report, timeout=CALL)
            poll = await stub.PollWork(pb.PollWorkRequest(session=session), timeout=CALL)
            assert not poll.HasField("destroy")
        assert orders.reports == [
            ("c1", "7", [DestroyedCache("residual", SHA, 8)]),
            ("c2", "7", []),
        ]


async def test_without_orders_a_report_answers_none(tmp_path: Path) -> None:
    async with served(tmp_path) as found:
        stub = FederationServiceStub(found.dial(Role.CLIENT, "c1"))
        manifest = manifest_message(found.federation.model.manifest)
        joined = await stub.Join(pb.JoinRequest(manifest=manifest), timeout=CALL)
        report = pb.ReportDestructionRequest(session=pb.Session(id=joined.session_id), order_id="7")
        told = await refusal(stub.ReportDestruction(report, timeout=CALL))
        assert told.reason is Reason.UNKNOWN_WORK
        assert await NoDestructions().pending("c1") is None


@pytest.mark.parametrize(
    "wrong",
    [
        [DestroyedCache("residual", SHA, 8)] * 65,
        [DestroyedCache("", SHA, 8)],
        [DestroyedCache("a b", SHA, 8)],
        [DestroyedCache("residual", SHA[1:], 8)],
        [DestroyedCache("residual", SHA.upper(), 8)],
    ],
)
def test_a_report_that_cannot_be_kept_is_refused(wrong: list[DestroyedCache]) -> None:
    with pytest.raises(FednotError) as refused:
        check_report(wrong)
    assert refused.value.reason is Reason.INVALID_REQUEST


def test_a_report_that_can_be_kept_passes() -> None:
    check_report([])
    check_report([DestroyedCache("residual", SHA, 8)] * 64)
