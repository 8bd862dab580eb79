"""The compose project on a real Docker engine: it trains by itself, a client is deleted while the
others and the server fail, and Prometheus shows it.
"""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from support.compose import (
    CALL_SECONDS,
    START_SECONDS,
    WORK_SECONDS,
    Project,
    build_images,
    build_monitoring,
    eventually,
    free_ports,
    reason_to_skip,
    run,
)
from support.dashboards import queries

CLIENTS = ["client-0", "client-1", "client-2"]
SCRAPED_SECONDS = 120
MONITORING = ("prometheus", "alertmanager")
"""Without Grafana, whose image cannot be had everywhere."""
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SKIP = reason_to_skip()
pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(SKIP is not None, reason=SKIP or ""),
]


@dataclass(frozen=True)
class Federation(Project):
    prometheus_port: int = 0

    def ask_prometheus(self, path: str) -> Any:
        with LOCAL.open(f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}", timeout=10) as it:
            return json.load(it)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        found = self.ask_prometheus(f"query?query={urllib.parse.quote(expression)}")["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def value(self, expression: str) -> float | None:
        found = self.query(expression)
        return found[0][1] if len(found) == 1 else None

    @property
    def network(self) -> str:
        return f"{self.name}_default"

    def reach(self, service: str, *, reachable: bool) -> None:
        """Plugs a container's network in or out; it keeps its name there."""
        verb = ("connect", "--alias", service) if reachable else ("disconnect",)
        run("docker", "network", *verb, self.network, self.container(service))

    def job(self) -> dict[str, Any]:
        [deletion] = self.jobs()
        found: dict[str, Any] = deletion["job"]
        return found


@pytest.fixture(scope="module")
def federation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Federation]:
    build_images()
    build_monitoring()
    names = ("ENROLMENT", "DATA", "METRICS", "ALERTMANAGER", "PROMETHEUS")
    grpc_port, *ports = free_ports(1 + len(names))
    settings = {f"FEDNOT_{name}_PORT": str(port) for name, port in zip(names, ports, strict=True)}
    made = Federation(
        f"fednot-test-{os.getpid()}",
        "docker-compose.yml",
        tmp_path_factory.mktemp("identities"),
        grpc_port,
        {**settings, "FEDNOT_TRAIN_ROUNDS": "2"},
        prometheus_port=ports[-1],
    )
    started = False
    try:
        made.compose("up", "--no-build", "--detach", seconds=START_SECONDS)
        monitoring = ("--profile", "monitoring", "up", "--no-build", "--no-deps", "--detach")
        made.compose(*monitoring, *MONITORING, seconds=START_SECONDS)
        for role in ("operator", "officer"):
            made.copy_identity(role)
        started = True
        yield made
    finally:
        if not started or request.session.testsfailed:
            request.config.get_terminal_writer().write(f"\n{made.logs()}\n")
        made.down()


def test_it_trains_by_itself_once(federation: Federation) -> None:
    eventually(WORK_SECONDS, "the first run", federation.training, ("RUN_STATE_COMPLETED", 2))
    eventually(SCRAPED_SECONDS, "clients", federation.states, dict.fromkeys(CLIENTS, "IDLE"))
    trained = 'fednot_rounds_total{phase="training",outcome="completed"}'
    eventually(SCRAPED_SECONDS, trained, lambda: federation.value(trained), 2)
    moved = 'fednot_data_channel_bytes_total{direction="received"}'
    assert (federation.value(moved) or 0) > 0, "the clients use the data channel"

    ended = "{{.State.Status}} {{.State.ExitCode}}"
    eventually(CALL_SECONDS, "trainer", lambda: federation.inspect("trainer", ended), "exited 0")
    said = federation.compose("run", "--rm", "--no-deps", "-T", "trainer", seconds=WORK_SECONDS)
    assert "there was a training run before (RUN_STATE_COMPLETED)" in said


def test_docker_is_told_by_healthz_and_by_grpc_that_they_are_healthy(
    federation: Federation,
) -> None:
    for service in ("server", *CLIENTS, *MONITORING):
        eventually(
            SCRAPED_SECONDS, service, lambda name=service: federation.health(name), "healthy"
        )
    said = json.loads(federation.inspect("server", "{{json .State.Health.Log}}"))[-1]["Output"]
    assert said.startswith('200 {"ok": true')
    assert said.rstrip().endswith("gRPC SERVING")


def test_a_deletion_completes_though_everything_fails(federation: Federation) -> None:
    """Two clients are needed. One is stopped, so that the job waits; the other is cut off, and the
    server killed, which Docker restarts. Once both are back, the job goes on to its end.
    """
    federation.compose("stop", "--timeout", "20", "client-1", seconds=60)
    ask = ("unlearn", "client", "client-2", "--max-rounds", "2")
    federation.fednot("officer", *ask, seconds=WORK_SECONDS)
    waiting = 'fednot_waiting_since_timestamp_seconds{for="clients"} > 0'
    eventually(SCRAPED_SECONDS, waiting, lambda: federation.value(waiting) is not None, True)
    federation.reach("client-0", reachable=False)
    gone = {"client-0": "GONE", "client-1": "GONE", "client-2": "BARRED"}
    eventually(SCRAPED_SECONDS, "clients", federation.states, gone)

    federation.kill("server")
    restarts = ("server", "{{.RestartCount}} {{.State.Health.Status}}")
    eventually(START_SECONDS, "server", lambda: federation.inspect(*restarts), "1 healthy")
    eventually(CALL_SECONDS, "the job", federation.phases, ["RECOVERING"])
    eventually(
        CALL_SECONDS,
        "what the server waits for",
        lambda: federation.status().get("waiting_for", ""),
        lambda said: "2 of 2 clients" in said,
    )

    federation.reach("client-0", reachable=True)
    federation.compose("start", "client-1", seconds=60)
    eventually(WORK_SECONDS, "the job", federation.phases, ["COMPLETED"])
    back = {"client-0": "IDLE", "client-1": "IDLE", "client-2": "BARRED"}
    eventually(SCRAPED_SECONDS, "clients", federation.states, back)

    completed = 'fednot_unlearning_jobs{phase="completed"}'
    eventually(SCRAPED_SECONDS, completed, lambda: federation.value(completed), 1)
    rounds = sum(len(attempt["rounds"]) for attempt in federation.job()["attempts"])
    assert rounds >= 1
    recovered = "fednot_recovery_rounds_total"
    eventually(SCRAPED_SECONDS, recovered, lambda: federation.value(recovered), rounds)
    assert federation.value('fednot_clients{state="barred"}') == 1


def test_prometheus_reaches_all_and_alertmanager(federation: Federation) -> None:
    wanted = {"server:9464": 1.0} | {f"{name}:9465": 1.0 for name in CLIENTS}

    def seen() -> dict[str, float]:
        found = federation.query('up{job=~"fednot-.*"}')
        return {labels["instance"]: value for labels, value in found}

    eventually(SCRAPED_SECONDS, "targets", seen, wanted)
    [told] = federation.ask_prometheus("alertmanagers")["activeAlertmanagers"]
    assert told["url"] == "http://alertmanager:9093/api/v2/alerts"


def test_every_panel_of_grafana_has_an_answer(federation: Federation) -> None:
    """Over the time since the start, as a panel asks: no deletion is open any more."""
    now = time.time()

    def unanswered() -> list[str]:
        return [
            name
            for name, query in queries()
            if not federation.ask_prometheus(
                "query_range?"
                + urllib.parse.urlencode(
                    {"query": query, "start": now - 1800, "end": time.time(), "step": "15"}
                )
            )["result"]
        ]

    eventually(SCRAPED_SECONDS, "panels without an answer", unanswered, [])


def test_the_federation_survives_a_restart_of_the_server(federation: Federation) -> None:
    federation.compose("restart", "--timeout", "20", "server", seconds=START_SECONDS)
    wanted = {"client-0": "IDLE", "client-1": "IDLE", "client-2": "BARRED"}
    eventually(START_SECONDS, "clients after a restart", federation.states, wanted)
    assert federation.phases() == ["COMPLETED"]


@pytest.mark.parametrize("service", ["server", *CLIENTS])
def test_every_line_of_a_log_is_json(federation: Federation, service: str) -> None:
    """Though somebody knocks who speaks no TLS."""
    with socket.create_connection(("127.0.0.1", federation.grpc_port), timeout=10) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with suppress(ConnectionError):
            stranger.recv(1)
    lines = federation.compose("logs", "--no-color", "--no-log-prefix", service).splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events


def test_the_ledger_lies_on_a_volume_of_its_own(federation: Federation) -> None:
    look = "wc -l </ledger/ledger.jsonl; ls /var/lib/fednot; stat -c %a /ledger/ledger.jsonl"
    lines, *files, mode = federation.compose("exec", "-T", "server", "sh", "-c", look).split()
    assert int(lines) >= 2, "the deletion, and that it completed"
    assert "ledger.jsonl" not in files
    assert mode == "600"


@pytest.mark.parametrize("service", ["server", "client-0"])
def test_a_container_can_write_to_its_volumes_only(federation: Federation, service: str) -> None:
    look = "id -u; touch /app/x 2>&1; touch /opt/venv/x 2>&1; touch /var/lib/fednot/x && echo wrote"
    said = federation.compose("exec", "-T", service, "sh", "-c", look)
    assert said.startswith("10001\n")
    assert said.count("Read-only file system") == 2
    assert said.endswith("wrote\n")


def test_each_container_holds_its_own_identity_only(federation: Federation) -> None:
    """No client can read another's key, the operator's, the officer's or the authority's."""
    find = "find / -xdev -name key.pem 2>/dev/null; find /var/lib/fednot -name key.pem"
    for name in CLIENTS:
        found = set(federation.compose("exec", "-T", name, "sh", "-c", find).split())
        assert found == {"/var/lib/fednot/identity/key.pem"}


def test_a_client_may_not_train_the_federation(federation: Federation) -> None:
    """The command inside a client's container, with the client's own certificate."""
    command = ("fednot", "train", "--rounds", "1", "--server", "server:50051", "--format", "json")
    identity = ("--identity", "/var/lib/fednot/identity")
    shell = " ".join([*command, *identity, "2>&1", "||", "true"])
    assert "WRONG_ROLE" in federation.compose("exec", "-T", "client-0", "sh", "-c", shell)
