"""The virtual environments of the peers, made below bench-out when they are first needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.processes import ROOT, BenchmarkError

FOLDER: Final = ROOT / "bench-out" / "venvs"
INSTALL_SECONDS: Final = 600.0


def python_of(name: str, *packages: str) -> Path:
    """The interpreter of an environment with these packages. Raises BenchmarkError."""
    place = FOLDER / name
    python = place / "bin" / "python"
    stamp = place / ".installed"
    wanted = "\n".join(packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    commands = (
        [sys.executable, "-m", "venv", str(place)],
        [str(python), "-m", "pip", "install", "--quiet", *packages],
    )
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchmarkError(f"{name} could not be installed: {error}") from error
        if done.returncode:
            raise BenchmarkError(f"{name} could not be installed: {done.stderr.strip()[-300:]}")
    stamp.write_text(wanted)
    return python
