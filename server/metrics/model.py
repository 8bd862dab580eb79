"""The model: its newest version, and how good that is."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Gauge

from server.records import Version


class ModelMetrics:
    """Version, release, generation and evaluation of the model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._accuracy = Gauge(
            "fednot_evaluation_accuracy_ratio", "Accuracy of the newest version", registry=registry
        )
        self._loss = Gauge(
            "fednot_evaluation_loss", "Loss of the newest version", registry=registry
        )
        self._version = Gauge("fednot_model_version", "The newest version", registry=registry)
        self._released = Gauge(
            "fednot_model_released_version", "The released version, 0 if none", registry=registry
        )
        self._generation = Gauge(
            "fednot_model_generation", "How often unlearning changed the model", registry=registry
        )

        self._accuracy.set(math.nan)
        self._loss.set(math.nan)

    def show(self, version: Version, released: int) -> None:
        """Shows the newest version, and which one is released.

        What was not measured of it is NaN, never what an older version had.
        """
        self._version.set(version.number)
        self._generation.set(version.generation)
        self._released.set(released)
        self._accuracy.set(version.metrics.get("accuracy", math.nan))
        self._loss.set(version.metrics.get("loss", math.nan))
