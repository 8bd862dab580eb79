"""FedEraser's calibration: figures by hand, and norms for any model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from support.manifests import manifest_of, manifests, random_flat

from fednot.codecs import NAMES, codec_of
from fednot.codecs.none import Plain
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.tensors import views
from server.aggregation import Aggregation
from server.aggregation.calibration import Calibrated, calibrated
from server.blocks import Block, Memory

FLOATS = ("F64", "F32", "F16", "BF16")
PLAIN = Plain()
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


def rule(stored: dict[str, torch.Tensor], manifest: Manifest = TWO) -> Calibrated:
    def of(client: str) -> torch.Tensor:
        if client not in stored:
            raise FednotError(Reason.UNKNOWN_CLIENT, f"nothing is stored of {client}")
        return stored[client]

    return Calibrated(manifest, Memory(), Aggregation(), torch.float64, of)


def test_the_rule_gives_the_mean_of_calibrated_updates() -> None:
    """Of a, (0, 10, .6, .8) as above with weight 1; of b, |(3, 4)| = 5 on (1, 0) is (5, 0), and
    (0, 2) on (1, 0) is (2, 0), with weight 3. The mean is ((0 + 15) / 4, 10 / 4, (.6 + 6) / 4,
    .8 / 4) = (3.75, 2.5, 1.65, .2), on top of ones.
    """
    found = rule({"a": flat(6, 8, 0, 1), "b": flat(3, 4, 0, 2)})
    found.add("a", Block.of(flat(0, 5, 3, 4)), 1, PLAIN)
    found.add("b", Block.of(flat(1, 0, 1, 0)), 3, PLAIN)
    model = found.applied_to(Block.of(flat(1, 1, 1, 1))).model
    assert floats(model.tensor) == pytest.approx([4.75, 3.5, 2.65, 1.2])
    found.close()
    found.close()


def test_a_client_without_a_stored_update_and_one_with_nan_are_refused_and_change_nothing() -> None:
    found = rule({"a": flat(6, 8, 0, 1), "b": flat(3, 4, 0, 2)})
    with pytest.raises(FednotError, match="nothing is stored of c"):
        found.add("c", Block.of(flat(1, 0, 1, 0)), 1, PLAIN)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(FednotError, match="update of w holds NaN or Inf"):
            found.add("b", Block.of(flat(bad, 0, 1, 0)), 1, PLAIN)
    found.add("a", Block.of(flat(0, 5, 3, 4)), 1, PLAIN)
    model = found.applied_to(Block.of(flat(0, 0, 0, 0))).model
    assert floats(model.tensor) == pytest.approx([0, 10, 0.6, 0.8])


@pytest.mark.parametrize("name", NAMES)
def test_an_update_of_every_codec_is_calibrated(name: str) -> None:
    manifest = manifest_of(w=("F32", (40, 50)))
    codec = codec_of(name)
    new, stored = random_flat(manifest, 1), random_flat(manifest, 2)
    found = rule({"a": stored}, manifest)
    found.add("a", Block.of(codec.encode(new, manifest)), 1, codec)
    model = found.applied_to(Block.of(torch.zeros_like(new))).model
    made = views(model.tensor, manifest)["w"].norm()
    assert float(made) == pytest.approx(float(views(stored, manifest)["w"].norm()), rel=1e-5)
