"""docs/metrics.md has every metric of both sides, with its labels and its help, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

from client.metrics import ClientMetrics
from server.metrics import Metrics, new_registry

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<labels>[\w, ]*) \| (?P<help>.+) \|$", re.MULTILINE)
Rows = dict[str, tuple[str, str]]


def test_the_documented_metrics_of_the_server_are_those_that_there_are() -> None:
    registry = new_registry()
    Metrics(registry, "test")
    assert documented("Server") | documented("Both") == declared(registry)


def test_the_documented_metrics_of_the_client_are_those_that_there_are() -> None:
    registry = new_registry()
    ClientMetrics(registry)
    assert documented("Client") | documented("Both") == declared(registry)


def test_no_metric_of_one_side_has_the_name_of_the_other_sides() -> None:
    assert not documented("Server").keys() & documented("Client").keys()


def documented(heading: str) -> Rows:
    text = (ROOT / "docs" / "metrics.md").read_text()
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = {row["name"]: (row["labels"].strip(), row["help"]) for row in ROW.finditer(section)}
    assert len(rows) == len(re.findall(r"^\| `", section, re.MULTILINE))
    return rows


def declared(registry: object) -> Rows:
    return dict(_rows(registry))


def _rows(registry: object) -> Iterator[tuple[str, tuple[str, str]]]:
    for collector in registry._collector_to_names:  # type: ignore[attr-defined]
        labels = collector._labelnames if isinstance(collector, MetricWrapperBase) else ()
        for family in collector.collect():
            yield _name(family), (", ".join(labels), family.documentation)


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name
