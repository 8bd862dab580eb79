"""The deployed rules and dashboards with a real Prometheus, Alertmanager and federation."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.dashboards import queries
from support.federation import LocalFederation, eventually
from support.monitoring import Monitoring, needs_prometheus

from fednot.v1 import deletion_pb2

pytestmark = [pytest.mark.long, needs_prometheus]
FLAGS = ("--min-clients", "2", "--task-arg", "trace=no")


def test_a_stuck_deletion_reaches_alertmanager(tmp_path: Path) -> None:
    """One of two clients is deleted where a round needs two: its job waits for ever."""
    with LocalFederation(tmp_path, server_flags=FLAGS) as federation:
        _train(federation, clients=2)
        targets = {"fednot-server": f"127.0.0.1:{federation.http_port}"}
        with Monitoring(tmp_path / "monitoring", targets) as monitoring:
            eventually("it is scraped", lambda: monitoring.ask('up{job="fednot-server"} == 1'))
            assert "FednotRecoveryStuck" not in monitoring.alerts()
            federation.unlearn("c1", "stuck", min_rounds=1, max_rounds=1)
            eventually(
                "the job recovers",
                lambda: federation.deletion("stuck").job.phase == deletion_pb2.JOB_PHASE_RECOVERING,
            )

            told = eventually(
                "Alertmanager knows", lambda: monitoring.alerts().get("FednotRecoveryStuck"), 45
            )

            assert told["status"]["state"] == "active"
            assert told["labels"]["severity"] == "critical"
            assert targets["fednot-server"] in told["annotations"]["description"]
            runbook = urlsplit(told["annotations"]["runbook_url"])
            assert (runbook.path, runbook.fragment) == ("docs/operations.md", "fednotrecoverystuck")
            eventually("so is the quorum", lambda: "FednotQuorumLost" in monitoring.alerts(), 45)
            eventually("and no more", lambda: "FednotServerDown" not in monitoring.alerts())


def test_every_panel_has_an_answer(tmp_path: Path) -> None:
    with LocalFederation(tmp_path, server_flags=FLAGS) as federation:
        _train(federation, clients=3)
        targets = {"fednot-server": f"127.0.0.1:{federation.http_port}"}
        with Monitoring(tmp_path / "monitoring", targets) as monitoring:
            federation.unlearn("c2", "gone", min_rounds=1, max_rounds=2)
            federation.await_job("gone")
            federation.train(1)
            done = "sum(fednot_unlearning_jobs_ended_total) > 0"
            eventually("the end is scraped", lambda: monitoring.ask(done))

            def silent() -> list[str]:
                return [panel for panel, query in queries() if not monitoring.ask(query)]

            eventually("every panel has an answer", lambda: not silent() or None, 30)
            assert monitoring.ask("no_such_metric") == []


def _train(federation: LocalFederation, *, clients: int) -> None:
    federation.start_server()
    for index in range(clients):
        federation.start_client(index)
    federation.await_connected(clients)
    assert federation.train(1).rounds_done == 1, federation.log("server")
