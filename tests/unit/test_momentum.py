"""Server momentum: by hand, and for any dtype."""

from __future__ import annotations

import pytest
import torch
from support.manifests import manifest_of, random_flat

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.runs import PIECE_ELEMENTS
from fednot.tensors import views
from server.aggregation.momentum import add_momentum


def flat(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(torch.uint8)


def test_a_share_of_the_last_step_is_added_to_parameters_alone() -> None:
    """The step before went from (1, 1) to (2, -1): (1, -2). Half of it on the mean (3, 5) is
    (3.5, 4). The buffer of (9, 9) stays.
    """
    buffer = TensorSpec("mean", "F32", (2,), TensorKind.BUFFER, "BatchNorm2d", 8)
    manifest = Manifest((*manifest_of(w=("F32", (2,))), buffer))
    mean = flat(3, 5, 9, 9)
    current, previous = flat(2, -1, 7, 7), flat(1, 1, 5, 5)
    add_momentum(mean, current, previous, manifest, 0.5)
    assert mean.view(torch.float32).tolist() == [3.5, 4, 9, 9]
    assert torch.equal(current, flat(2, -1, 7, 7))
    assert torch.equal(previous, flat(1, 1, 5, 5))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_it_is_rounded_once_to_the_models_dtype(dtype: str) -> None:
    manifest = manifest_of(w=(dtype, (3, 40)), n=("I64", (3,)), b=(dtype, (PIECE_ELEMENTS + 3,)))
    mean, now, before = (random_flat(manifest, seed) for seed in (1, 2, 3))
    expected = mean.clone()
    wanted, one, two = (views(each, manifest) for each in (expected, now, before))
    for name in ("w", "b"):
        exact = wanted[name].double() + 0.9 * (one[name].double() - two[name].double())
        wanted[name].copy_(exact)
    add_momentum(mean, now, before, manifest, 0.9)
    assert torch.equal(mean, expected)


def test_what_is_beyond_the_dtype_is_refused() -> None:
    """60000 + 0.5 * (40000 + 40000) is beyond float16's 65504."""
    manifest = manifest_of(first=("F32", (1,)), w=("F16", (4,)))
    mean, now, before = (torch.zeros(16, dtype=torch.uint8) for _ in range(3))
    for each, value in ((mean, 60000), (now, 40000), (before, -40000)):
        views(each, manifest)["w"].fill_(value)
    with pytest.raises(FednotError, match="makes w NaN or Inf") as refusal:
        add_momentum(mean, now, before, manifest, 0.5)
    assert refusal.value.reason is Reason.NOT_FINITE
