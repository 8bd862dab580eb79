"""`python -m lab.membership`: per-example LiRA in a small setting, for the report of a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from fednot.errors import FednotError
from lab.membership import study
from lab.membership.unlearner import Course


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit code."""
    given = _parser().parse_args(arguments)
    course = Course(given.epochs, given.recovery, given.layers)

    def progress(done: int) -> None:
        sys.stderr.write(f"lab.membership: {done} of {given.models} models\n")

    try:
        found = study.run(
            given.methods.split(","),
            course,
            models=given.models,
            retained=given.retained,
            candidates=given.candidates,
            seed=given.seed,
            progress=progress,
        )
    except (ValueError, FednotError) as error:
        sys.stderr.write(f"lab.membership: {error}\n")
        return 2
    sys.stdout.write(f"{study.write(given.out, found)} is written\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.membership", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("lab-out"), help="the folder of results")
    parser.add_argument("--methods", default="retrain,fine-tune,not", help="NAME,NAME:VALUE,...")
    parser.add_argument("--layers", default="first", help="the layers to negate")
    parser.add_argument("--models", type=int, default=16, help="shadow models")
    parser.add_argument("--retained", type=int, default=500, help="samples that are kept")
    parser.add_argument("--candidates", type=int, default=500, help="samples, half of them learned")
    parser.add_argument("--epochs", type=int, default=15, help="epochs before the deletion")
    parser.add_argument("--recovery", type=int, default=5, help="epochs of recovery")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    torch.set_num_threads(1)  # so small a model gains nothing by more
    sys.exit(main())
