"""A dry run on the digits beside the cells of the same layers, as a reader runs both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.lab_study import STUDY, study

from lab.__main__ import main

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
MORE = """
[[method]]
name = "not"
id = "conv2"
layers = "index=1"
[[method]]
name = "not"
id = "conv1-fc1"
layers = "index=0,2"
"""
CHANGED = {
    "train = 120": "train = 1000\nproxy = 200",
    "test = 60": "test = 200",
    "rounds = 2": "rounds = 5\nbatch_size = 16",
    "rounds = 1": "rounds = 3",
    "examples = 50": "examples = 200\nbackdoor = true\nundo = true",
}


def test_each_choice_stands_beside_what_the_study_measured(tmp_path: Path) -> None:
    text = STUDY
    for old, new in CHANGED.items():
        assert old in text
        text = text.replace(old, new)
    out = tmp_path / "out"
    command = [str(study(tmp_path, text, more=MORE)), "--out", str(out)]
    assert main(["run", *command, "--workers", "1"]) == 0
    assert main(["dry-run", *command]) == 0
    (base,) = json.loads((out / "dry-run.json").read_text())["bases"]
    found = {tuple(choice["layers"]): choice for choice in base["choices"]}
    assert base["distilled_on"] == "the proxy samples"
    assert base["accuracy"] > 0.6
    assert {layers for layers, choice in found.items() if choice["measured"]} == {
        ("conv1",),
        ("conv2",),
        ("conv1", "fc1"),
    }
    first, second = found["conv1",], found["conv2",]
    assert first["recovered"] > first["accuracies"][0] + 0.2
    assert first["restored"] > second["restored"] + 0.2
    assert base["agreement"]["depth"]["count"] == 3
    assert "| conv1, fc1 |" in (out / "dry-run.md").read_text()
