"""What the order-independent float64 sum costs against a float32 one (docs/decisions/0003)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.timing import median_seconds
from fednot.manifest import Manifest
from fednot.tensors import empty, views
from server.aggregation import RunningAverage

MEGABYTES = 100


def figures() -> Iterator[str]:
    """Seconds to add one update of 100 MB, and the ratio to a bare float32 multiply-add."""
    torch.set_num_threads(1)
    model = torch.nn.Linear(MEGABYTES * 250, 1000, bias=False)
    manifest = Manifest.of(model)
    update = empty(manifest)
    flat = views(update, manifest)["weight"].normal_()
    average = RunningAverage(manifest)
    ours = median_seconds(lambda: average.add(update, 3))
    bare_sum = torch.zeros_like(flat)
    bare = median_seconds(lambda: bare_sum.add_(flat, alpha=3))
    yield f"aggregation: {manifest.nbytes / 1e6:.0f} MB update added in {ours:.3f} s"
    yield f"aggregation: {ours / bare:.1f} x a bare float32 multiply-add ({bare:.3f} s)"
