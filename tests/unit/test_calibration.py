"""FedEraser's calibration: figures by hand, and norms for any model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from support.manifests import manifest_of, manifests, random_flat

from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.tensors import views
from server.aggregation.calibration import calibrated

FLOATS = ("F64", "F32", "F16", "BF16")
TWO = manifest_of(w=("F32", (2,)), b=("F32", (2,)))


def flat(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(torch.uint8)


def floats(found: torch.Tensor) -> list[float]:
    values: list[float] = found.view(torch.float32).tolist()
    return values


def test_each_tensor_has_the_stored_length_and_the_new_direction() -> None:
    """w: |(6, 8)| = 10 and |(0, 5)| = 5, so (0, 5) becomes (0, 10). b: |(0, 1)| = 1 and
    |(3, 4)| = 5, so (3, 4) becomes (0.6, 0.8).
    """
    stored, new = flat(6, 8, 0, 1), flat(0, 5, 3, 4)
    assert floats(calibrated(stored, new, TWO)) == pytest.approx([0, 10, 0.6, 0.8])
    assert torch.equal(new, flat(0, 5, 3, 4))
    assert torch.equal(stored, flat(6, 8, 0, 1))


def test_what_has_no_direction_stays_and_what_had_no_length_is_nothing() -> None:
    assert floats(calibrated(flat(6, 8, 0, 0), flat(0, 0, 3, 4), TWO)) == [0, 0, 0, 0]


def test_buffers_and_integers_are_those_of_the_new_update() -> None:
    mean = TensorSpec("mean", "F32", (2,), TensorKind.BUFFER, "BatchNorm2d", 0)
    steps = TensorSpec("steps", "I64", (1,), TensorKind.BUFFER, "BatchNorm2d", 8)
    count = TensorSpec("count", "I64", (1,), TensorKind.PARAMETER, "Odd", 16)
    manifest = Manifest((mean, steps, count))
    stored, new = random_flat(manifest, 1, 100), random_flat(manifest, 2, 100)
    assert torch.equal(calibrated(stored, new, manifest), new)


def test_an_update_of_another_model_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="8 bytes, not 16"):
        calibrated(flat(1, 2), flat(0, 5, 3, 4), TWO)


@settings(deadline=None, max_examples=50)
@given(manifests(FLOATS))
def test_every_tensor_of_any_model_has_the_stored_norm(manifest: Manifest) -> None:
    """Float16 has 11 bits, bfloat16 8: the norm of rounded elements is as far off."""
    stored, new = random_flat(manifest, 1), random_flat(manifest, 2, 0.1)
    found = views(calibrated(stored, new, manifest), manifest)
    wanted, given_ = views(stored, manifest), views(new, manifest)
    for name, view in found.items():
        assert view.dtype == wanted[name].dtype
        if not view.numel():
            continue
        length = float(wanted[name].double().norm())
        assert float(view.double().norm()) == pytest.approx(length, rel=0.01)
        cosine = float((view.double() * given_[name].double()).sum())
        assert cosine == pytest.approx(length * float(given_[name].double().norm()), rel=0.01)
