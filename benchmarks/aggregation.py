"""Adding up updates: in float32, float64 and spilled, against a bare multiply-add of one update.

The bare one is `total.add_(update, alpha=3)` on float32 in one call: it is bound by memory alone.
Ours checks that all is finite, too. `python -m benchmarks.aggregation --megabytes 1000` takes
another size. What the product's choice between the two costs stands in docs/decisions/0003.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.timing import RUNS, median_seconds
from fednot.manifest import Manifest
from server.aggregation import RunningAverage
from server.blocks import Block, Memory

MEGABYTES = 100
ADDS = 3


def rows(megabytes: int = MEGABYTES) -> dict[str, float]:
    """Seconds by what was done: `bare`, `add_*` of one update, `apply_*` of the mean to a model."""
    torch.set_num_threads(1)
    manifest = Manifest.of(torch.nn.Linear(megabytes * 250, 1000, bias=False, device="meta"))
    with tempfile.TemporaryDirectory() as folder:
        in_memory, spilled = Memory(), Memory(0, Path(folder))
        update = _filled(in_memory.block(manifest.nbytes))
        model = _filled(in_memory.block(manifest.nbytes))
        total, values = torch.zeros_like(update.tensor.view(torch.float32)), update.tensor
        found = {
            "megabytes": manifest.nbytes / 1e6,
            "bare": median_seconds(lambda: total.add_(values.view(torch.float32), alpha=3)),
        }
        for name, memory, precision in (
            ("float32", in_memory, torch.float32),
            ("float64", in_memory, torch.float64),
            ("float32_spilled", spilled, torch.float32),
        ):
            source = _filled(memory.block(manifest.nbytes))
            added, applied = _seconds(manifest, memory, precision, source, model)
            found |= {f"add_{name}": added, f"apply_{name}": applied}
    return found


def figures(megabytes: int = MEGABYTES) -> Iterator[str]:
    """GB/s of each way to add an update, and how many times the bare multiply-add it takes."""
    found = rows(megabytes)
    size, bare = found["megabytes"], found["bare"]
    yield f"aggregation: {size:.0f} MB, a bare float32 multiply-add: {size / 1e3 / bare:.1f} GB/s"
    for name, seconds in found.items():
        kind, _, how = name.partition("_")
        if kind in ("add", "apply"):
            what = "update added" if kind == "add" else "mean applied"
            yield (
                f"aggregation: {what} in {how.replace('_', ', ')}: {size / 1e3 / seconds:.1f} GB/s,"
                f" {seconds / bare:.1f} x a bare multiply-add ({seconds:.3f} s)"
            )


def _seconds(
    manifest: Manifest,
    memory: Memory,
    precision: torch.dtype,
    update: Block,
    model: Block,
) -> tuple[float, float]:
    """The medians of an add and of the mean's application to a model."""
    adding, applying = [], []
    for _ in range(RUNS):
        average = RunningAverage(manifest, memory=memory, precision=precision)
        # The first finds the sums' pages for the first time, as only the first of a round does.
        for _ in range(ADDS):
            begun = time.perf_counter()
            average.add(update, 3)
            added = time.perf_counter()
        adding.append(added - begun)
        average.applied_to(model)
        applying.append(time.perf_counter() - added)
    return statistics.median(adding), statistics.median(applying)


def _filled(block: Block) -> Block:
    block.tensor.view(torch.float32).normal_()
    return block


def main() -> None:
    """Prints the figures for a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES)
    for line in figures(parser.parse_args().megabytes):
        print(line)


if __name__ == "__main__":
    main()
