"""Alert rules: each has two cases, a runbook, and names only metrics that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.promql import documented_metrics, metrics_of

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RUNBOOKS = "docs/operations.md"


def rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("rules/*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def cases() -> dict[str, set[bool]]:
    """For each alert that promtool's cases ask about, whether it was to fire."""
    found: dict[str, set[bool]] = {}
    for path in sorted(FOLDER.glob("tests/*.yml")):
        for case in yaml.safe_load(path.read_text())["tests"]:
            for asked in case["promql_expr_test"]:
                named = re.match(r'ALERTS\{alertname="(\w+)",alertstate="firing"\}$', asked["expr"])
                assert named, asked
                found.setdefault(named[1], set()).add(bool(asked["exp_samples"]))
    return found


def headings() -> list[str]:
    text = (ROOT / RUNBOOKS).read_text().partition("\n## Runbooks\n")[2].partition("\n## ")[0]
    return re.findall(r"^### (\w+)$", text, re.MULTILINE)


def test_each_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    assert cases() == {rule["alert"]: {True, False} for rule in alerts()}


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert headings() == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        url = rule["annotations"]["runbook_url"]
        assert url == f"{RUNBOOKS}#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_rules_name_only_metrics_that_are_documented() -> None:
    known = documented_metrics() | {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        named = metrics_of(rule["expr"])
        assert named, rule
        assert named <= known, rule


def test_prometheus_loads_the_rules_and_tells_alertmanager() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert config["rule_files"] == ["rules/*.yml"]
    [told] = config["alerting"]["alertmanagers"]
    assert told["static_configs"] == [{"targets": ["alertmanager:9093"]}]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_every_case_as_written() -> None:
    tests = [str(path) for path in sorted(FOLDER.glob("tests/*.yml"))]
    command = ["promtool", "test", "rules", *tests]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
