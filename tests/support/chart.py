"""The Helm chart, rendered by a real helm."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "fednot"
RELEASE, NAMESPACE = "fed", "federation"
Document = dict[str, Any]


def helm() -> str:
    """A helm binary; skips the test without one."""
    found = os.environ.get("FEDNOT_TEST_HELM") or shutil.which("helm")
    if not found:
        pytest.skip("no helm here: export FEDNOT_TEST_HELM=$(.ci/helm)")
    return found


def run_helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm(), *words], capture_output=True, text=True, timeout=50, check=False)


def rendered(*flags: str | Path, chart: Path = CHART) -> list[Document]:
    """What an installation with these flags would send to the cluster."""
    return copy.deepcopy(_rendered(flags, chart))


@functools.cache
def _rendered(flags: tuple[str | Path, ...], chart: Path) -> list[Document]:
    done = run_helm("template", RELEASE, chart, "--namespace", NAMESPACE, *flags)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [each for each in documents if each["kind"] == kind]


def owners(documents: list[Document]) -> list[Document]:
    """What makes pods."""
    return [each for each in documents if each["kind"] in ("StatefulSet", "Deployment")]


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Each pod's template with the name of what makes it."""
    for each in owners(documents):
        yield each["metadata"]["name"], each["spec"]["template"]


def containers(template: Document) -> list[Document]:
    found: list[Document] = template["spec"].get("initContainers", [])
    return [*found, *template["spec"]["containers"]]


def environment(container: Document) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", [])}


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()
