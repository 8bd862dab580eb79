"""A download of a released version lasts through later rounds, and ends with a deletion."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.in_process import InProcessFederation, in_process
from support.small_digits import SmallDigits

from fednot.errors import FednotError, Reason
from fednot.v1 import operator_pb2
from server.cohorts.remote import RemoteCohort
from server.federation import Defaults
from server.records import RecoveryPolicy
from server.services.operator import OperatorServicer
from server.state import audit_rows


def servicer_of(found: InProcessFederation) -> OperatorServicer:
    return OperatorServicer(found.federation, found.coordinator, RemoteCohort(lapse=5))


async def test_only_a_deletion_ends_a_download(tmp_path: Path) -> None:
    tasks = {f"c{index}": SmallDigits(str(index)) for index in range(3)}
    async with in_process(tmp_path, SmallDigits(trace="no"), tasks, Defaults()) as found:
        servicer = servicer_of(found)
        with pytest.raises(FednotError, match="train first"):
            await anext(servicer.DownloadVersion(operator_pb2.DownloadVersionRequest(), None))
        await found.train(1)

        overtaken = servicer.DownloadVersion(operator_pb2.DownloadVersionRequest(), None)
        assert (await anext(overtaken)).header.version.number == 2
        await found.train(1)
        parts = [part.WhichOneof("part") async for part in overtaken]
        assert parts[-1] == "trailer"

        withdrawn = servicer.DownloadVersion(operator_pb2.DownloadVersionRequest(), None)
        await anext(withdrawn)
        await found.forget("c0", policy=RecoveryPolicy(max_rounds=1, tolerance=0.9))
        with pytest.raises(FednotError) as refused:
            await anext(withdrawn)
        assert refused.value.reason is Reason.VERSION_DESTROYED

        for number, reason in ((1, Reason.NOT_RELEASED), (99, Reason.UNKNOWN_VERSION)):
            request = operator_pb2.DownloadVersionRequest(version=number)
            with pytest.raises(FednotError) as refused:
                await anext(servicer.DownloadVersion(request, None))
            assert refused.value.reason is reason

        taken = [
            entry.version
            for entry in await found.federation.database.read(
                lambda c: audit_rows.list_entries(c, 0, 100)
            )
            if entry.action == "OperatorService.DownloadVersion"
        ]
        assert taken == [2, 3], "the audit tells which versions went out"
