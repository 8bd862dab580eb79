"""What a real server and a real client tell Prometheus, after training and a deletion."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.request import urlopen

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from support.federation import CALL, LocalFederation, eventually
from support.ports import free_port

pytestmark = [pytest.mark.long, pytest.mark.timeout(360)]

ROUNDS = 3
REQUEST = "ask-5f0c"
NAMING = {"client", "job", "job_id", "subject", "request", "request_id", "name", "user", "peer"}
"""Labels that would tell of whom a series is."""


class Live(NamedTuple):
    """A federation that has forgotten c1, and what was scraped of it."""

    federation: LocalFederation
    job: str
    server: str
    client: str


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    port = free_port()
    with LocalFederation(tmp_path_factory.mktemp("live")) as federation:
        federation.start_server()
        for index in (1, 2):
            federation.start_client(index)
        federation.start_client(3, flags=("--http-address", f"127.0.0.1:{port}"))
        federation.await_connected(3)
        federation.train(ROUNDS)
        federation.unlearn("c1", REQUEST, max_rounds=2)
        job = federation.await_job(REQUEST).job.id
        eventually(
            "the end of the job is counted",
            lambda: federation.metrics()[ENDED] == 1 and told_trainings(federation) > 3 * ROUNDS,
        )
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=CALL) as answer:
            client = answer.read().decode()
        yield Live(federation, job, federation.http("/metrics").decode(), client)


ENDED = 'fednot_unlearning_jobs_ended_total{outcome="completed"}'


def told_trainings(federation: LocalFederation) -> float:
    return federation.metrics()["fednot_fleet_train_duration_seconds_count"]


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def value(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of a name that have these labels."""
    found = [
        sample.value
        for family in families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert found, f"there is no {name} with {labels}"
    return sum(found)


@pytest.mark.parametrize("side", ["server", "client"])
def test_promtool_finds_nothing_to_say(live: Live, side: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, of Debian's package prometheus")
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=getattr(live, side),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_no_label_tells_of_a_client_a_job_or_a_person(live: Live) -> None:
    secrets = [live.job, REQUEST, "c1", "c2", "c3", "dora", "olga"]
    pattern = re.compile("|".join(rf"\b{re.escape(secret)}\b" for secret in secrets))
    assert live.job
    for text in (live.server, live.client):
        labels = [each for family in families(text) for each in labels_of(family)]
        assert len(labels) > 20
        assert not NAMING & {name for each in labels for name in each}
        told = {word for each in labels for word in each.values() if pattern.search(word)}
        assert told == set()


def labels_of(family: Metric) -> list[Mapping[str, str]]:
    return [sample.labels for sample in family.samples]


def test_what_happened_is_counted(live: Live) -> None:
    text = live.server
    assert value(text, "fednot_rounds_total", phase="training", outcome="completed") == ROUNDS
    recovered = value(text, "fednot_recovery_rounds_total")
    assert recovered >= 1
    assert value(text, "fednot_aggregation_duration_seconds_count") >= ROUNDS + recovered
    for phase in ("queued", "negating", "verifying"):
        count = value(text, "fednot_unlearning_phase_duration_seconds_count", phase=phase)
        assert count >= 1, phase
    assert value(text, "fednot_unlearning_jobs_ended_total", outcome="failed") == 0
    joined = {"grpc_service": "fednot.v1.FederationService", "grpc_method": "Join"}
    assert value(text, "grpc_server_handled_total", grpc_code="OK", **joined) == 3
    assert value(text, "grpc_server_started_total", **joined) == 3
    assert value(text, "fednot_event_loop_lag_seconds_count") > 10
    assert value(text, "fednot_buffered_bytes") > 0
    free, size = (value(text, f"fednot_state_{name}_bytes") for name in ("free", "capacity"))
    assert 0 < free < size
    for name in ("database", "disk"):
        assert value(text, f"fednot_{name}_errors_total") == 0
    assert value(text, "fednot_clients_required") == 2
    assert value(text, "process_start_time_seconds") > 1e9
    assert value(live.client, "process_start_time_seconds") > 1e9


def test_the_fleet_is_the_sum_of_its_clients(live: Live) -> None:
    text = live.server
    assert value(text, "fednot_fleet_clients", device="cpu") == 3
    assert value(text, "fednot_fleet_clients_by_version") == 3
    assert value(text, "fednot_fleet_clients_by_version", version="other") == 0
    assert value(text, "fednot_fleet_barred_clients") == 1
    assert value(text, "fednot_fleet_oldest_heartbeat_timestamp_seconds") > 1e9
    accepted = value(text, "fednot_updates_total", outcome="accepted")
    trainings = value(text, "fednot_fleet_train_duration_seconds_count")
    own = value(live.client, "fednot_client_train_duration_seconds_count")
    assert own < trainings <= accepted
    own = value(live.client, "fednot_client_examples_total")
    assert own < value(text, "fednot_fleet_examples_total")


def test_after_a_restart_of_the_server_nothing_counts_twice(live: Live) -> None:
    """It comes last, since the server is another one afterwards."""
    federation = live.federation
    eventually("all is told", lambda: told_trainings(federation) == accepted(federation))
    told_at, heard = time.time(), "fednot_fleet_oldest_heartbeat_timestamp_seconds"
    eventually("and that was answered", lambda: federation.metrics()[heard] > told_at)
    federation.kill("server")
    federation.start_server()
    federation.await_connected(3)
    reconnected = "fednot_fleet_reconnects_total"
    eventually("outages are told", lambda: federation.metrics()[reconnected] >= 3)
    assert federation.metrics()["fednot_fleet_examples_total"] == 0
    assert told_trainings(federation) == 0


def accepted(federation: LocalFederation) -> float:
    return federation.metrics()['fednot_updates_total{outcome="accepted"}']
