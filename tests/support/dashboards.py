"""The module that writes Grafana's dashboards, which is no package."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"


def maker() -> ModuleType:
    """The module deploy/grafana/make_dashboards.py."""
    name = "make_dashboards"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's name, as dashboard and title, and the PromQL that it asks."""
    yield from maker().queries()
