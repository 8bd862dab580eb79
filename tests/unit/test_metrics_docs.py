"""docs/metrics.md lists every metric of both sides, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from client.metrics import ClientMetrics
from server.metrics import Metrics, new_registry

ROOT = Path(__file__).parents[2]
SERVER, CLIENT = Metrics(new_registry(), "test"), ClientMetrics.fresh()


def test_the_documented_metrics_are_those_that_there_are() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(fednot_[a-z_]+)` \|", text, re.MULTILINE))
    assert documented == exposed(SERVER.render()[0]) | exposed(CLIENT.render()[0])


def test_a_metric_is_read_from_the_exposition() -> None:
    assert exposed(b"# TYPE fednot_x_total counter\nfednot_x_total 1.0\n") == {"fednot_x_total"}


def exposed(exposition: bytes) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+) ", exposition.decode(), re.MULTILINE))
