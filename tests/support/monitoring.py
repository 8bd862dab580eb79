"""A real Prometheus and a real Alertmanager on loopback, with the rules that are deployed."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from support.federation import eventually
from support.ports import free_port

DEPLOYED = Path(__file__).parents[2] / "deploy" / "prometheus"
PROMETHEUS, ALERTMANAGER = "prometheus", "prometheus-alertmanager"
missing = [name for name in (PROMETHEUS, ALERTMANAGER) if shutil.which(name) is None]
needs_prometheus = pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")


class Monitoring:
    """Both processes; the deployed configuration with its intervals cut short, and each `for`."""

    def __init__(self, folder: Path, targets: dict[str, str], *, hold: str = "1s") -> None:
        self._folder = folder
        self._targets = targets
        self._hold = hold
        self._ports = {PROMETHEUS: free_port(), ALERTMANAGER: free_port()}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._write()
        for name in (ALERTMANAGER, PROMETHEUS):
            self._start(name)
        eventually("Prometheus is ready", lambda: self._answers(PROMETHEUS))
        eventually("Alertmanager is ready", lambda: self._answers(ALERTMANAGER))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, query: str) -> list[dict[str, Any]]:
        """What Prometheus answers to an instant query."""
        found = self._get(PROMETHEUS, f"/api/v1/query?{urlencode({'query': query})}")
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def alerts(self) -> dict[str, dict[str, Any]]:
        """The alerts that Alertmanager was told of, by name."""
        return {
            each["labels"]["alertname"]: each for each in self._get(ALERTMANAGER, "/api/v2/alerts")
        }

    def _write(self) -> None:
        rules = self._folder / "rules"
        rules.mkdir(parents=True)
        for path in DEPLOYED.glob("rules/*.yml"):
            document = yaml.safe_load(path.read_text())
            for rule in (rule for group in document["groups"] for rule in group["rules"]):
                if "for" in rule:
                    rule["for"] = self._hold
            (rules / path.name).write_text(yaml.safe_dump(document))
        config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
        config["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), "1s")
        config["global"]["scrape_timeout"] = "1s"
        told = [{"targets": [f"127.0.0.1:{self._ports[ALERTMANAGER]}"]}]
        config["alerting"]["alertmanagers"] = [{"static_configs": told}]
        config["scrape_configs"] = [
            {"job_name": job, "static_configs": [{"targets": [target]}]}
            for job, target in self._targets.items()
        ]
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def _start(self, name: str) -> None:
        config = DEPLOYED / "alertmanager.yml"
        flags = [f"--storage.path={self._folder / name}", "--cluster.listen-address="]
        if name == PROMETHEUS:
            config = self._folder / "prometheus.yml"
            flags = [f"--storage.tsdb.path={self._folder / name}"]
        address = f"--web.listen-address=127.0.0.1:{self._ports[name]}"
        log = self._stack.enter_context((self._folder / f"{name}.log").open("w"))
        command = [name, f"--config.file={config}", address, *flags]
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._stack.callback(process.wait, 30)
        self._stack.callback(process.kill)

    def _answers(self, name: str) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self._ports[name]}/-/ready", timeout=5) as answer:
                ready: bool = answer.status == 200
        except OSError:
            return False
        return ready

    def _get(self, name: str, path: str) -> Any:
        with urlopen(f"http://127.0.0.1:{self._ports[name]}{path}", timeout=10) as answer:
            return json.load(answer)
