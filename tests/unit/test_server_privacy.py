"""What clients tell of their privacy, in lists, status and metrics; nonsense is refused."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.joined import Joined
from support.served import CALL, Served, refusal, served

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.v1 import federation_pb2, operator_pb2, operator_pb2_grpc
from server.monitor import Monitor
from server.privacy import PrivacySpent, most

SPENT = PrivacySpent(2.5, 1e-5, 8.0, 130)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as found:
        yield found


async def test_the_most_that_was_spent_is_shown(server: Served) -> None:
    operator = operator_pb2_grpc.OperatorServiceStub(server.dial(Role.OPERATOR, "olga"))
    little, much, none = [await Joined(server, name).join() for name in ("c1", "c2", "c3")]
    await none.beat()
    status = await operator.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL)
    assert not status.HasField("privacy")
    await much.beat(privacy=SPENT.message())
    await little.beat(privacy=federation_pb2.PrivacySpent(epsilon=1.0, delta=1e-6, steps=7))

    status = await operator.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL)
    assert status.privacy == SPENT.message()
    listed = await operator.ListClients(operator_pb2.ListClientsRequest(), timeout=CALL)
    found = {each.name: each for each in listed.clients}
    assert found["c1"].privacy.epsilon == 1.0
    assert found["c2"].privacy == SPENT.message()
    assert not found["c3"].HasField("privacy")

    assert server.federation.metrics.fleet._privacy._value.get() == 0
    await Monitor(server.federation, server.cohort, server.identity)._refresh()
    assert server.federation.metrics.fleet._privacy._value.get() == 2.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": math.nan},
        {"epsilon": math.inf},
        {"epsilon": -1.0},
        {"epsilon_limit": math.inf},
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": math.nan},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    message = SPENT.message()
    for name, value in wrong.items():
        setattr(message, name, value)
    with pytest.raises(FednotError, match="privacy") as caught:
        PrivacySpent.told(message)
    assert caught.value.reason is Reason.INVALID_REQUEST


async def test_a_refused_figure_changes_nothing(server: Served) -> None:
    client = await Joined(server, "c1").join()
    await client.beat(privacy=SPENT.message())
    wrong = federation_pb2.PrivacySpent(epsilon=math.nan, delta=1e-5)
    assert (await refusal(client.beat(privacy=wrong))).reason is Reason.INVALID_REQUEST
    assert server.cohort.sessions()["c1"].privacy == SPENT


def test_the_most_of_nobody_is_nothing() -> None:
    assert most([None, None]) is None
    assert most([None, SPENT, PrivacySpent(1.0, 1e-5, 0.0, 1)]) == SPENT
