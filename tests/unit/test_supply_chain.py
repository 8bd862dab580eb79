"""CI's look at what comes from others, against an advisory service that the test plays."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "supply-chain"
ADVISORY = {
    "id": "PYSEC-2099-1",
    "aliases": ["CVE-2099-0001"],
    "modified": "2099-01-01T00:00:00Z",
    "summary": "made up",
    "affected": [
        {
            "package": {"name": "numpy", "ecosystem": "PyPI"},
            "versions": ["1.0"],
            "ranges": [],
        }
    ],
}


@contextmanager
def osv(found: dict[str, list[object]]) -> Iterator[str]:
    """An OSV service that knows these advisories by package."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            vulns = found.get(asked["package"]["name"], [])
            body = json.dumps({"vulns": vulns} if vulns else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        server.shutdown()


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    path = tmp_path / "pins.txt"
    path.write_text("numpy==1.0\nrich==14.0.0\n")
    return path


def look(pins: Path, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(pins), "-s", "osv", "--osv-url", url],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_an_advisory_without_a_reason_fails(pins: Path) -> None:
    with osv({"numpy": [ADVISORY]}) as url:
        found = look(pins, url)
    assert found.returncode == 1, found
    assert "numpy 1.0: PYSEC-2099-1: NOT ACCEPTED" in found.stdout


def test_pins_without_advisories_pass(pins: Path) -> None:
    with osv({}) as url:
        found = look(pins, url)
    assert found.returncode == 0, found
    assert "2 packages looked at, 0 advisories" in found.stdout


def test_a_service_that_cannot_be_asked_is_said_loudly(pins: Path) -> None:
    found = look(pins, "http://127.0.0.1:9/v1/query")
    assert found.returncode == 0, found
    assert "NOT checked" in found.stdout


def loaded_script() -> ModuleType:
    loader = SourceFileLoader("supply_chain", str(SCRIPT))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_a_service_that_never_answers_is_said_loudly_and_fails_nothing(
    pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "pip-audit"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    script = loaded_script()
    monkeypatch.setattr(script, "BIN", tmp_path)
    monkeypatch.setattr(script, "LONGEST", 0.2)

    assert script.audit(str(pins), []) == 0
    told = capsys.readouterr().out
    assert "NO ADVISORY SERVICE COULD BE ASKED" in told
    assert "it has not answered in 0.2 s" in told
