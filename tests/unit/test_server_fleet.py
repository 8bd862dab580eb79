"""What clients did is added up once, whoever restarts; what they are is counted without a name."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.joined import Joined
from support.served import CALL, Served, refusal, served

from client.activity import NEWEST, Activity
from fednot.errors import FednotError, Reason
from fednot.v1 import federation_pb2
from server.fleet import MOST, MOST_TRAININGS, Fleet, device_kind, version_of
from server.metrics import Metrics, new_registry
from server.monitor import Monitor

Totals = tuple[float, float, float, float]


class Server:
    """A server process: its counters, and what has been told to it."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self._fleet = Fleet(Metrics(self.registry, "test").fleet)

    def hears(self, activity: Activity, client: str = "c1", *, answers: bool = True) -> None:
        message = federation_pb2.ClientActivity.FromString(activity.message().SerializeToString())
        self._fleet.told(client, message)
        if answers:
            activity.answered(message)

    def tell(self, **fields: Any) -> None:
        self._fleet.told("c1", federation_pb2.ClientActivity(**{"process": b"p"} | fields))

    @property
    def totals(self) -> Totals:
        return totals(self.registry)


def totals(registry: CollectorRegistry) -> Totals:
    """Reconnects, examples, trainings and their seconds."""
    names = ("reconnects_total", "examples_total", "train_duration_seconds_count")
    found = [registry.get_sample_value(f"fednot_fleet_{name}") for name in names]
    seconds = registry.get_sample_value("fednot_fleet_train_duration_seconds_sum")
    return (found[0] or 0, found[1] or 0, found[2] or 0, seconds or 0)


def worked(activity: Activity, times: int = 1) -> Activity:
    """One reconnection, 10 examples and 2 seconds, so many times."""
    for _ in range(times):
        activity.reconnected()
        activity.contributed(10)
        activity.trained(2.0)
    return activity


class TestSums:
    def test_each_heartbeat_adds_what_is_new(self) -> None:
        server, activity = Server(), Activity()
        server.hears(activity)
        assert server.totals == (0, 0, 0, 0)
        server.hears(worked(activity))
        server.hears(activity)
        server.hears(worked(activity, 2))
        assert server.totals == (3, 30, 3, 6.0)

    def test_the_work_of_several_clients_is_added(self) -> None:
        server = Server()
        for name in ("c1", "c2"):
            server.hears(worked(Activity()), name)
        assert server.totals == (2, 20, 2, 4.0)

    def test_a_heartbeat_whose_answer_was_lost_counts_once(self) -> None:
        server, activity = Server(), worked(Activity())
        server.hears(activity, answers=False)
        server.hears(worked(activity), answers=False)
        server.hears(activity)
        assert server.totals == (2, 20, 2, 4.0)

    def test_a_client_that_restarts_adds_to_what_it_did_before(self) -> None:
        server = Server()
        server.hears(worked(Activity(), 3))
        server.hears(worked(Activity()))
        assert server.totals == (4, 40, 4, 8.0)

    def test_a_server_that_restarts_counts_what_came_since_the_last_answer(self) -> None:
        first, second, activity = Server(), Server(), worked(Activity(), 2)
        first.hears(activity)
        second.hears(worked(activity))
        second.hears(worked(activity))
        assert second.totals == (2, 20, 2, 4.0)

    def test_a_message_that_comes_late_takes_nothing_back(self) -> None:
        server, activity = Server(), worked(Activity())
        late = activity.message()
        server.hears(worked(activity))
        server._fleet.told("c1", late)
        server.hears(activity)
        assert server.totals == (2, 20, 2, 4.0)

    def test_only_the_newest_of_very_many_trainings_are_observed(self) -> None:
        server = Server()
        server.hears(worked(Activity(), NEWEST + 5))
        assert server.totals == (NEWEST + 5, 10 * (NEWEST + 5), NEWEST, 2.0 * NEWEST)
        assert NEWEST == MOST_TRAININGS


@pytest.mark.parametrize(
    "wrong",
    [
        {"process": b""},
        {"process": b"x" * 33},
        {"counted": federation_pb2.ClientCounts(examples=MOST + 1)},
        {"acknowledged": federation_pb2.ClientCounts(reconnects=MOST + 1)},
        {"train_seconds": [1.0] * (MOST_TRAININGS + 1)},
        {"train_seconds": [math.nan]},
        {"train_seconds": [math.inf]},
        {"train_seconds": [-1.0]},
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(wrong: dict[str, Any]) -> None:
    server = Server()
    counted = federation_pb2.ClientCounts(examples=5, trainings=1)
    with pytest.raises(FednotError, match="activity") as caught:
        server.tell(**{"counted": counted} | wrong)
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert server.totals == (0, 0, 0, 0)
    server.tell(counted=counted)
    assert server.totals[1] == 5


@pytest.mark.parametrize(
    ("device", "kind"),
    [("cpu", "cpu"), ("cuda", "cuda"), ("cuda:3", "cuda"), ("mps", "other"), ("dora's", "other")],
)
def test_a_device_is_one_of_a_few(device: str, kind: str) -> None:
    assert device_kind(device) == kind


@pytest.mark.parametrize("text", ["0.1.0", "1.2", "10.0.3rc1", "0.2.0.dev4"])
def test_a_version_is_shown(text: str) -> None:
    assert version_of(text) == text


@pytest.mark.parametrize("text", ["", "dora", "1", "1.0+dora", "1.0-dora", "1.0\n", "1.2.3.4.5"])
def test_what_is_no_version_is_not_shown(text: str) -> None:
    assert version_of(text) == "other"


def test_many_versions_are_counted_together_and_gone_ones_go() -> None:
    registry = new_registry()
    fleet = Metrics(registry, "test").fleet
    fleet.show_versions({f"1.{minor}": 2 for minor in range(8)} | {"2.0": 1, "2.1": 1, "other": 1})
    assert versions(registry) == {f"1.{minor}": 2 for minor in range(8)} | {"other": 3}
    fleet.show_versions({"2.1": 4})
    assert versions(registry) == {"2.1": 4, "other": 0}


def versions(registry: CollectorRegistry) -> dict[str, float]:
    name = "fednot_fleet_clients_by_version"
    family = next(each for each in registry.collect() if each.name == name)
    return {sample.labels["version"]: sample.value for sample in family.samples}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as found:
        yield found


async def test_heartbeats_and_leaving_show_what_the_fleet_is_and_did(server: Served) -> None:
    began = time.time()
    first = await Joined(server, "c1").join("cuda:0", "0.1.0")
    second = await Joined(server, "c2").join("cpu", "0.1.0")
    third = await Joined(server, "c3").join("cuda:1", "c3")
    await third.beat(device="cpu", degraded=True)
    worked(first.activity)
    await first.beat()
    worked(second.activity)
    await second.beat()

    registry = server.federation.metrics._registry
    await Monitor(server.federation, server.cohort, server.identity)._refresh()
    sample = registry.get_sample_value
    assert totals(registry) == (2, 20, 2, 4.0)
    assert sample("fednot_fleet_clients", {"device": "cuda"}) == 1
    assert sample("fednot_fleet_clients", {"device": "cpu"}) == 2
    assert sample("fednot_fleet_degraded_clients") == 1
    assert sample("fednot_fleet_barred_clients") == 0
    assert sample("fednot_clients_required") == 2
    assert versions(registry) == {"0.1.0": 2, "other": 1}
    oldest = sample("fednot_fleet_oldest_heartbeat_timestamp_seconds")
    assert oldest is not None
    assert began <= oldest <= time.time()

    worked(first.activity)
    leaving = federation_pb2.LeaveRequest(session=first.session, activity=first.activity.message())
    await first.stub.Leave(leaving, timeout=CALL)
    await Monitor(server.federation, server.cohort, server.identity)._refresh()
    assert totals(registry) == (3, 30, 3, 6.0)
    assert sample("fednot_fleet_clients", {"device": "cuda"}) == 0


async def test_a_client_that_tells_nonsense_is_told_so(server: Served) -> None:
    client = await Joined(server, "c1").join("cpu", "0.1.0")
    nonsense = federation_pb2.ClientActivity(process=b"p", train_seconds=[math.nan])
    refused = await refusal(client.beat(activity=nonsense))
    assert refused.reason is Reason.INVALID_REQUEST
