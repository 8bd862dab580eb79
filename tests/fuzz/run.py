"""Runs one target of `make fuzz` for a while: `python -m fuzz.run TARGET --seconds 60`.

Inputs that broke something are kept in tests/fuzz/findings, which is not in the repository. Once
the fault is mended, move the input to tests/fuzz/corpus/TARGET: a unit test replays it for ever.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
from pathlib import Path
from typing import Final

import atheris

HERE: Final = Path(__file__).parent
TARGETS: Final = ("decoders", "upload_stream", "model_reader")
MEMORY_MIB: Final = 2048
LONGEST_INPUT: Final = 1 << 16
SECONDS_EACH: Final = 20


def main() -> None:
    """Fuzzes until the time is over; libFuzzer ends the process, not with 0 after a finding."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    logging.disable()
    with atheris.instrument_imports(include=["fednot", "server"], enable_loader_override=False):
        target = importlib.import_module(f"fuzz.{asked.target}")
    with tempfile.TemporaryDirectory(prefix="fednot-corpus-") as corpus:
        for number, seed in enumerate(target.seeds()):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        findings = HERE / "findings"
        findings.mkdir(exist_ok=True)
        options = [
            f"-max_total_time={asked.seconds}",
            f"-seed={asked.seed}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-timeout={SECONDS_EACH}",
            f"-max_len={LONGEST_INPUT}",
            f"-artifact_prefix={findings}/{asked.target}-",
            "-print_final_stats=1",
            corpus,
            *(str(path) for path in [HERE / "corpus" / asked.target] if path.exists()),
        ]
        atheris.Setup([sys.argv[0], *options], target.try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
