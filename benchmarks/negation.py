"""What it costs to negate and store a version, against writing the same bytes to a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.timing import median_seconds
from fednot.manifest import Manifest
from fednot.tensors import empty, views
from server.methods.negation import negated
from server.state.model_store import ModelStore

MEGABYTES = 100


def figures() -> Iterator[str]:
    """Seconds to negate and store 100 MB, and the ratio to writing and syncing 100 MB."""
    torch.set_num_threads(1)
    manifest = Manifest.of(torch.nn.Linear(MEGABYTES * 250, 1000, bias=False))
    flat = empty(manifest)
    views(flat, manifest)["weight"].normal_()
    with tempfile.TemporaryDirectory() as folder:
        store = ModelStore(Path(folder) / "versions")

        def negate_and_store() -> None:
            store.delete_all_but(())
            store.write(negated(flat, manifest, ["weight"]), manifest, "")

        def write_bytes() -> None:
            with (Path(folder) / "plain").open("wb") as file:
                file.write(flat.numpy().data)
                file.flush()
                os.fsync(file.fileno())

        ours, bare = median_seconds(negate_and_store), median_seconds(write_bytes)
    yield f"negation: {manifest.nbytes / 1e6:.0f} MB negated, hashed and stored in {ours:.3f} s"
    yield f"negation: {ours / bare:.1f} x writing the same bytes ({bare:.3f} s)"
