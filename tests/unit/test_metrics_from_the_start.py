"""What Prometheus sees before anything happened, and of a version that nobody has scored."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from fednot.errors import Reason
from server.metrics import Metrics, new_registry
from server.records import Version, VersionOrigin

SCORED = {"fednot_evaluation_accuracy_ratio": "accuracy", "fednot_evaluation_loss": "loss"}
VERSION = Version(1, "0" * 64, 0, 0, 1, VersionOrigin.INITIAL, 0, 0.0, 64)


@pytest.fixture
def registry() -> CollectorRegistry:
    return new_registry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry, "test")


@pytest.mark.parametrize("name", ["fednot_refusals_total", "fednot_refused_updates_total"])
def test_refusals_start_at_0_for_each_reason(
    registry: CollectorRegistry, metrics: Metrics, name: str
) -> None:
    """Else rate() would miss the first of each, which begins at 1."""
    for reason in Reason:
        assert registry.get_sample_value(name, {"reason": reason}) == 0


@pytest.mark.parametrize(("name", "key"), SCORED.items())
def test_a_version_without_a_score_shows_none(
    registry: CollectorRegistry, metrics: Metrics, name: str, key: str
) -> None:
    def shown() -> float:
        found = registry.get_sample_value(name)
        assert found is not None
        return found

    assert math.isnan(shown())
    metrics.model.show(replace(VERSION, metrics={key: 0.25}), 1)
    assert shown() == 0.25
    metrics.model.show(replace(VERSION, number=2, metrics={}), 0)
    assert math.isnan(shown()), "a negated version does not have the score of the one before"
