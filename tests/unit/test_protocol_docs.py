"""docs/protocol.md names every call."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "protocol.md").read_text()
MODULES = [
    import_module(f"fednot.v1.{path.stem}_pb2")
    for path in (ROOT / "protos/fednot/v1").glob("*.proto")
]


def test_every_call_of_every_service_is_named() -> None:
    for module in MODULES:
        for service in module.DESCRIPTOR.services_by_name.values():
            calls = ", ".join(method.name for method in service.methods)
            assert f"| `{service.name}` |" in TEXT
            assert f"| {calls} |" in TEXT
