"""What it costs to negate and store a version, against writing the same bytes to a file.

Both are durable: the file is synced. `python -m benchmarks.negation --megabytes 1000` takes another
size.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.timing import median_seconds
from fednot.manifest import Manifest
from fednot.tensors import as_bytes
from server.blocks import Memory
from server.methods.negation import negated_block
from server.state.model_store import ModelStore, sha256_of

MEGABYTES = 100


def rows(megabytes: int = MEGABYTES) -> dict[str, float]:
    """Seconds to `negate`, to `hash`, to negate and commit (`commit`), and to write (`bare`)."""
    torch.set_num_threads(1)
    manifest = Manifest.of(torch.nn.Linear(megabytes * 250, 1000, bias=False, device="meta"))
    memory = Memory()
    base = memory.block(manifest.nbytes)
    base.tensor.view(torch.float32).normal_()
    with tempfile.TemporaryDirectory() as folder:
        store = ModelStore(Path(folder) / "versions")
        plain = Path(folder) / "plain"

        def negate_and_commit() -> None:
            store.delete_all_but(())
            store.write(negated_block(base, manifest, ["weight"], memory), manifest, "")

        def write_bytes() -> None:
            plain.unlink(missing_ok=True)
            with plain.open("wb") as file:
                file.write(as_bytes(base.tensor))
                file.flush()
                os.fsync(file.fileno())

        return {
            "megabytes": manifest.nbytes / 1e6,
            "commit": median_seconds(negate_and_commit),
            "bare": median_seconds(write_bytes),
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
