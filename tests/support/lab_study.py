"""A study of the embedded digits that is done in seconds."""

from __future__ import annotations

from pathlib import Path

STUDY = """
[study]
name = "tiny"

[[dataset]]
name = "digits"
train = 120
test = 60

[[model]]
name = "cnn-digits"

[[method]]
name = "retrain"

[[method]]
name = "not"
label = "NoT"

[training]
rounds = 2
clients = 3

[recovery]
rounds = 1

[measure]
examples = 50
"""


def study(folder: Path, text: str = STUDY, *, more: str = "") -> Path:
    """Writes the study's file and returns its path."""
    path = folder / "study.toml"
    path.write_text(text + more)
    return path
