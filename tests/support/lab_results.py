"""Made results of lab cells, whose figures a test states itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import results
from lab.results import Result


def scores(retain: float, forget: float, test: float, mia: float) -> dict[str, float]:
    return {"retain": retain, "forget": forget, "test": test, "mia": mia}


def rounds(*tests: float, phase: str = "recovery", nbytes: float = 100.0) -> list[dict[str, Any]]:
    """Rounds of these test accuracies, each of so many bytes, twice the FLOPs and two seconds."""
    return [
        {
            "number": at,
            "phase": phase,
            "test": test,
            "forget": test / 2,
            "bytes": nbytes * at,
            "flops": 2 * nbytes * at,
            "seconds": 2.0 * at,
        }
        for at, test in enumerate(tests, 1)
    ]


def result(
    label: str,
    seed: int = 0,
    *,
    method: str = "",
    dataset: str = "cifar10",
    model: str = "cnn",
    partition: str = "iid",
    **parts: Any,
) -> Result:
    """A result with the parts that are given; its scores are all halves if none are."""
    method = method or label
    slug = "".join(c if c.isalnum() else "_" for c in label.lower())
    found = {
        "id": f"{dataset}-{model}-{partition}-{slug}-s{seed}",
        "label": label,
        "cell": {
            "dataset": dataset,
            "model": model,
            "partition": partition,
            "method": method,
            "seed": seed,
        },
        "provenance": {"commit": "abc123", "machine": "two cores"},
        **parts,
    }
    if "failure" not in parts:
        found.setdefault("scores", scores(0.5, 0.5, 0.5, 0.5))
    return results.of(found)


def verified(
    depth: str, *undone: float, behaviour: str = "pass", name: str = "trigger_effect"
) -> dict[str, Any]:
    """A verification whose models of the undo attack have these effects, after 0, 1, ... rounds."""
    findings = [{"name": "recovered", "rounds": 0, "figures": {name: 0.0}}]
    findings += [
        {"name": "undone: conv1.weight", "rounds": at, "figures": {name: effect}}
        for at, effect in enumerate(undone)
    ]
    return {"behaviour": behaviour, "depth": depth, "findings": findings}


def folder_of(folder: Path, found: Sequence[Result]) -> Path:
    for one in found:
        results.write(folder, one)
    return folder
