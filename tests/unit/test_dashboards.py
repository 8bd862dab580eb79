"""Grafana's dashboards are those that the code writes, and ask for metrics that there are."""

from __future__ import annotations

import json

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
    boards = [json.loads(path.read_text()) for path in (FOLDER / "dashboards").glob("*.json")]
    targets = [
        target for board in boards for panel in board["panels"] for target in panel["targets"]
    ]
    assert sorted(target["expr"] for target in targets) == sorted(query for _, query in queries())


def test_grafana_finds_datasource_and_dashboards() -> None:
    folder = FOLDER / "provisioning"
    [source] = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((folder / "dashboards/fednot.yml").read_text())["providers"]
    assert (source["type"], source["uid"]) == ("prometheus", maker().SOURCE.uid)
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
