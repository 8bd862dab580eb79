"""What the robust rules cost beside the mean: seconds, memory, and disk, for one round.

Ten updates of a 100 MB model, one after the other as they come, then the new model; each rule in a
process of its own. Memory is the peak of VmRSS above what the process had with the model and one
update in it. `python -m benchmarks.robust_rules --megabytes 400 --clients 20` takes other sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from benchmarks.measuring import forget_peak, read_status
from fednot.codecs.none import Plain
from fednot.manifest import Manifest
from server.aggregation import Aggregation, RuleName
from server.blocks import Block, Memory

MEGABYTES: Final = 100
CLIENTS: Final = 10


def measured(rule: RuleName, megabytes: int, clients: int) -> dict[str, float]:
    """Seconds for all adds and for the new model, and MB of memory above idle, in this process."""
    torch.set_num_threads(1)
    manifest = Manifest.of(torch.nn.Linear(megabytes * 250, 1000, bias=False, device="meta"))
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(None, Path(folder))
        update, model = memory.block(manifest.nbytes), memory.block(manifest.nbytes)
        update.tensor.view(torch.float32).normal_()
        model.tensor.view(torch.float32).normal_()
        begun = Aggregation(rule).begun(manifest, memory, torch.float32)
        forget_peak(os.getpid())
        idle = read_status(os.getpid())["VmRSS"]
        adding = 0.0
        for number in range(clients):
            _change(update, number)
            start = time.perf_counter()
            begun.add(f"c{number}", update, 1, Plain())
            adding += time.perf_counter() - start
        start = time.perf_counter()
        begun.applied_to(model)
        applying = time.perf_counter() - start
        peak = read_status(os.getpid())["VmHWM"]
    kept = 0.0 if rule is RuleName.MEAN else clients * manifest.nbytes / 1e6
    return {"add_s": adding, "apply_s": applying, "memory_mb": peak - idle, "disk_mb": kept}


def _change(update: Block, number: int) -> None:
    """Makes it another client's, without a second copy."""
    flat = update.tensor.view(torch.float32)
    for start in range(0, flat.numel(), 1 << 18):
        flat[start : start + (1 << 18)].mul_(1 + 0.01 * (number % 3 - 1))


def figures(megabytes: int = MEGABYTES, clients: int = CLIENTS) -> Iterator[str]:
    """A line for each rule, with its ratios to the mean."""
    mean: dict[str, float] = {}
    for rule in RuleName:
        found = _in_own_process(rule, megabytes, clients)
        mean = mean or found
        seconds = found["add_s"] + found["apply_s"]
        ratio = seconds / (mean["add_s"] + mean["apply_s"])
        memory = found["memory_mb"] / mean["memory_mb"]
        yield (
            f"robust rules: {rule}, {clients} updates of {megabytes} MB: {found['add_s']:.2f} s to "
            f"add, {found['apply_s']:.2f} s to apply, {ratio:.1f} x the mean; "
            f"{found['memory_mb']:.0f} MB of memory, {memory:.2f} x "
            f"the mean; {found['disk_mb']:.0f} MB of disk"
        )


def _in_own_process(rule: RuleName, megabytes: int, clients: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.robust_rules", "--only", rule]
    command += ["--megabytes", str(megabytes), "--clients", str(clients)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--only", type=RuleName, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measured(given.only, given.megabytes, given.clients)))
        return
    for line in figures(given.megabytes, given.clients):
        print(line, flush=True)


if __name__ == "__main__":
    main()
