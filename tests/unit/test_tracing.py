"""Tracing that is off, or cannot be on; test_logs_and_traces.py has the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fednot import tracing

OFF = """
import sys
from fednot import calls, tracing
from fednot.cli import main
tracing.start("fednot", "", {})
tracing.start("fednot", "http://127.0.0.1:9", {"OTEL_SDK_DISABLED": "true"})
parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
with calls.bound(calls.Origin("x", parent)), tracing.span("a", root=True) as span:
    span.set(round=1)
    assert calls.current().traceparent == parent, "it is passed on"
tracing.stop()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""


def test_without_the_setting_nothing_of_it_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFF], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    for endpoint, environment in (
        ("http://127.0.0.1:4317", {}),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}),
    ):
        with pytest.raises(tracing.TracingError, match=r"pip install 'fednot\[tracing\]'"):
            tracing.start("fednot", endpoint, environment)


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(tracing.TracingError, match="write http://HOST:4317"):
        tracing.start("fednot", "collector:4317", {})
