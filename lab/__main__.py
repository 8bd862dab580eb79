"""`python -m lab`: run a study, list its cells, report its results."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from fednot.data.errors import DataError
from fednot.locked_directory import DirectoryInUseError, LockedDirectory
from lab import dry_run, execution, report, results, unit
from lab.cells import Cell, cells_of
from lab.config import ConfigError, StudyConfig, read
from lab.engines import ENGINES
from lab.engines.engine import LabError
from lab.plan import Plan, plan_of, standing
from lab.progress import Bars, Lines
from lab.report import prediction
from lab.runner import Options, Runner

USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; what is wrong goes to standard error."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        return int(given.run(given))
    except (ConfigError, LabError, DataError, results.ResultError) as error:
        sys.stderr.write(f"lab: {error}\n")
        return USAGE_ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("lab: stopped; the same command goes on where it was\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run what is left of a study, then report")
    run.set_defaults(run=_run)
    run.add_argument("config", type=Path, help="the study's TOML file")
    _place(run)
    _engine(run)
    cores = len(os.sched_getaffinity(0))
    run.add_argument("--workers", type=_count, default=cores, help="cells at once (default: cores)")
    run.add_argument("--rerun", action="store_true", help="replace results of other configurations")
    cells = commands.add_parser("cells", help="list a study's cells and how they stand")
    cells.set_defaults(run=_cells)
    cells.add_argument("config", type=Path, help="the study's TOML file")
    _place(cells)
    dry = commands.add_parser("dry-run", help="try each choice of layers on the server alone")
    dry.set_defaults(run=_dry_run)
    dry.add_argument("config", type=Path, help="the study's TOML file")
    _place(dry, "bases", "*-s0")
    passes = f"passes over the server's samples (default: {dry_run.PASSES})"
    dry.add_argument("--passes", type=_count, default=dry_run.PASSES, help=passes)
    told = commands.add_parser("report", help="write the report of a folder of results")
    told.set_defaults(run=lambda given: _report(given.out))
    told.add_argument("out", type=Path, help="the folder")
    for kind, play in (("base", unit.run_base), ("cell", unit.run_cell)):
        one = commands.add_parser(kind, help=f"a single {kind}; `run` starts these")
        one.set_defaults(run=lambda given, play=play: _unit(given, play))
        one.add_argument("spec", type=Path, help=f"the {kind} as JSON")
        one.add_argument("--out", type=Path, required=True, help="the folder of results")
        _engine(one)
    return parser


def _place(parser: argparse.ArgumentParser, what: str = "cells", such: str = "*-not-*") -> None:
    parser.add_argument("--data", type=Path, help="the folder of the datasets' files")
    parser.add_argument("--out", type=Path, help="the folder of results (default: the file's)")
    parser.add_argument("--only", default="", help=f"only {what} whose id fits, such as '{such}'")


def _engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=ENGINES, default="in-process", help="where clients run")
    parser.add_argument("--ray-address", default="", help="a Ray cluster (default: a local Ray)")


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _run(given: argparse.Namespace) -> int:
    config, cells, out = _study(given)
    console = Console(stderr=True)
    try:
        lock = LockedDirectory(out / execution.WORK)
    except DirectoryInUseError:
        raise LabError(f"another run is at work in {out}; wait for it, or stop it") from None
    try:
        plan = plan_of(out, cells, rerun=given.rerun)
        done = f"{len(plan.done)} of {len(cells)} cells are done"
        console.print(f"{config.study.name}: {done}, {len(plan.cells)} to run", highlight=False)
        results.write_expected(out, execution.expected(cells_of(config)))
        options = Options(out, given.engine, given.ray_address, given.workers)
        failures = _played(plan, options, console)
    finally:
        lock.close()
    for name, failure in failures.items():
        sys.stderr.write(f"lab: {name} failed: {failure}\n")
    return _report(out) or int(bool(failures))


def _played(plan: Plan, options: Options, console: Console) -> dict[str, str]:
    bars = Bars(console, plan.rounds) if console.is_terminal else None
    with bars or nullcontext():
        runner = Runner(options, bars or Lines(console, plan.rounds))
        asyncio.run(_until_told(runner, plan))
    return runner.failures


async def _until_told(runner: Runner, plan: Plan) -> None:
    loop, work = asyncio.get_running_loop(), asyncio.ensure_future(runner.run(plan))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _cells(given: argparse.Namespace) -> int:
    _, cells, out = _study(given)
    for cell in cells:
        sys.stdout.write(f"{cell.id}: {standing(out, cell)}\n")
    sys.stdout.flush()
    return 0


def _dry_run(given: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    config, started = read(given.config), datetime.now(UTC)
    data, out = given.data.resolve() if given.data else None, given.out or config.study.out
    cells = cells_of(config, data=data)
    found: list[prediction.Compared] = []
    try:
        for spec, base in [(s, dry_run.based(out, s)) for s in dry_run.bases_of(cells, given.only)]:
            run = dry_run.played(spec, base, given.passes)
            found.append(prediction.compared(out, run, cells))
            files = prediction.write(out, found, execution.provenance(started))
    except KeyboardInterrupt:
        sys.stderr.write(f"lab: stopped after {len(found)} bases; a dry run starts anew\n")
        return INTERRUPTED
    sys.stdout.write(f"{files[0]} and {files[1]} are written\n")
    return 0


def _study(given: argparse.Namespace) -> tuple[StudyConfig, list[Cell], Path]:
    config = read(given.config)
    cells = cells_of(config, data=given.data.resolve() if given.data else None, only=given.only)
    return config, cells, given.out or config.study.out


def _report(out: Path) -> int:
    files = report.write(out)
    lacking = f"; {files.lacking} cells are missing in it" if files.lacking else ""
    sys.stdout.write(f"{files.markdown}, {files.html} and {files.summary} are written{lacking}\n")
    return 0


def _unit(given: argparse.Namespace, play: object) -> int:
    if callable(play):
        play(given.spec, given.out, given.engine, given.ray_address)
    return 0


if __name__ == "__main__":
    sys.exit(main())
