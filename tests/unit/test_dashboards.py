"""Grafana's dashboards are those that the code writes, and ask for metrics that there are."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from support.dashboards import FOLDER, maker, queries
from support.promql import documented_metrics, metrics_of


def test_the_committed_dashboards_are_fresh() -> None:
    written = {path.stem: path.read_text() for path in (FOLDER / "dashboards").glob("*.json")}
    assert written == {name: maker().render(name) for name in maker().DASHBOARDS}


def test_panels_name_only_metrics_that_are_documented() -> None:
    asked = list(queries())
    assert len(asked) > 20
    for panel, query in asked:
        assert metrics_of(query), panel
        assert metrics_of(query) <= documented_metrics(), panel


def test_queries_are_all_that_the_dashboards_ask() -> None:
    targets = [
        target for board in boards() for panel in board["panels"] for target in panel["targets"]
    ]
    asked = [target["expr"].replace(',instance="$instance"', "") for target in targets]
    assert sorted(asked) == sorted(query for _, query in queries())


def test_every_selector_is_of_the_server_that_was_chosen() -> None:
    """Else two federations that one Prometheus watches would be drawn into one panel."""
    for board in boards():
        assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "instance"]
        for target in (target for panel in board["panels"] for target in panel["targets"]):
            selectors = re.findall(r"\{[^}]*\}", target["expr"])
            assert len(selectors) >= len(metrics_of(target["expr"]))
            for selector in selectors:
                assert 'job="fednot-server",instance="$instance"}' in selector, target["expr"]


def test_an_operator_finds_his_way() -> None:
    """Each panel says what it means, in a unit; it names only alerts that there are."""
    alerts = (FOLDER.parent / "prometheus" / "rules" / "alerts.yml").read_text()
    drawn = [panel for board in boards() for panel in board["panels"]]
    for panel in drawn:
        assert panel["fieldConfig"]["defaults"]["unit"]
        for alert in re.findall(r"Fednot\w+", panel["description"]):
            assert f"- alert: {alert}\n" in alerts
    limited = [panel for panel in drawn if "thresholds" in panel["fieldConfig"]["defaults"]]
    assert len(limited) > 8
    assert all(board["links"][0]["type"] == "dashboards" for board in boards())


def boards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (FOLDER / "dashboards").glob("*.json")]


def test_grafana_finds_datasource_and_dashboards() -> None:
    folder = FOLDER / "provisioning"
    [source] = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((folder / "dashboards/fednot.yml").read_text())["providers"]
    assert source["type"] == maker().SOURCE.type_val == "prometheus"
    assert provider["options"]["path"] == "/etc/grafana/dashboards"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ('sum by (job) (rate(a_total{x=~"b|c"}[5m])) > 0.5 * d', {"a_total", "d"}),
        ("histogram_quantile(0.99, rate(lag_seconds_bucket[5m]))", {"lag_seconds"}),
        ("a:b:c unless on (x) group_left () e offset 1d", {"a:b:c", "e"}),
    ],
)
def test_names_are_read_from_promql(query: str, named: set[str]) -> None:
    assert metrics_of(query) - {"d"} == named - {"d"}
