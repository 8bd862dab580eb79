"""What it costs to negate and store a version, against writing the same bytes to a file.

Both are durable: the file is synced. `python -m benchmarks.negation --megabytes 1000` takes another
size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.timing import RUNS, median_seconds
from fednot.manifest import Manifest
from fednot.tensors import as_bytes
from server.blocks import Memory
from server.methods.negation import negated_block
from server.state.model_store import sha256_of
from server.state.stores.directory import DirectoryStore

MEGABYTES = 100


def rows(megabytes: int = MEGABYTES) -> dict[str, float]:
    """Seconds to `negate`, to `hash`, to negate and commit (`commit`), and to write (`bare`)."""
    torch.set_num_threads(1)
    manifest = Manifest.of(torch.nn.Linear(megabytes * 250, 1000, bias=False, device="meta"))
    memory = Memory()
    base = memory.block(manifest.nbytes)
    base.tensor.view(torch.float32).normal_()
    with tempfile.TemporaryDirectory() as folder:
        store = DirectoryStore(Path(folder) / "versions")
        plain = Path(folder) / "plain"

        def negate_and_commit() -> None:
            store.write(negated_block(base, manifest, ["weight"], memory), manifest, "")

        def write_bytes() -> None:
            with plain.open("wb") as file:
                file.write(as_bytes(base.tensor))
                file.flush()
                os.fsync(file.fileno())

        seconds: dict[str, list[float]] = {"commit": [], "bare": []}
        # In turns, so that a disk that slows down slows both; neither has old files to delete.
        for _ in range(RUNS):
            for name, work in (("commit", negate_and_commit), ("bare", write_bytes)):
                store.delete_all_but(())
                plain.unlink(missing_ok=True)
                os.sync()
                begun = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - begun)
        return {
            "megabytes": manifest.nbytes / 1e6,
            **{name: statistics.median(found) for name, found in seconds.items()},
            "negate": median_seconds(lambda: negated_block(base, manifest, ["weight"], memory)),
            "hash": median_seconds(lambda: sha256_of(base)),
        }


def figures(megabytes: int = MEGABYTES) -> Iterator[str]:
    """Seconds to negate and commit a version, and the ratio to writing and syncing its bytes."""
    found = rows(megabytes)
    size, ours, bare = found["megabytes"], found["commit"], found["bare"]
    yield f"negation: {size:.0f} MB negated, hashed and stored in {ours:.3f} s"
    yield f"negation: {ours / bare:.2f} x writing and syncing the same bytes ({bare:.3f} s)"
    yield (
        f"negation: of it {found['negate']:.3f} s negate; "
        f"{found['hash']:.3f} s hash while the file is written"
    )


def main() -> None:
    """Prints the figures for a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES)
    for line in figures(parser.parse_args().megabytes):
        print(line)


if __name__ == "__main__":
    main()
