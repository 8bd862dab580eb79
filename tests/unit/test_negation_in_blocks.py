"""Negation in pieces: the same bits for any model, in memory and spilled."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.manifests import manifest_of, manifests, random_flat

from fednot.manifest import Manifest
from fednot.tensors import views
from server.blocks import Block, Memory
from server.methods.negation import PIECE, negated, negated_block

NEGATABLE = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8")


@settings(deadline=None)
@given(manifest=manifests(NEGATABLE).filter(lambda found: bool(found.tensors)), data=st.data())
def test_any_choice_of_any_model_is_negated_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, data: st.DataObject
) -> None:
    """Empty tensors too, which start where the next one does."""
    names = [spec.name for spec in manifest]
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1))
    base = random_flat(manifest, 1)
    expected = base.clone()
    for name in set(chosen):
        views(expected, manifest)[name].neg_()
    spill = Memory(0, tmp_path_factory.getbasetemp() / "spill")
    for memory in (Memory(), spill):
        found = negated_block(Block.of(base), manifest, chosen, memory)
        assert torch.equal(found.tensor, expected)
    assert found.spilled is bool(manifest.nbytes)


def test_a_model_of_several_pieces_is_negated() -> None:
    manifest = manifest_of(a=("I8", (5,)), w=("F32", (2 * PIECE + 1,)), z=("F32", (PIECE + 1,)))
    base = random_flat(manifest, 1)
    found = views(negated(base, manifest, ["w"]), manifest)
    for name, tensor in views(base, manifest).items():
        assert torch.equal(found[name], -tensor if name == "w" else tensor)


def test_a_flat_model_of_another_size_is_refused() -> None:
    manifest = manifest_of(w=("F32", (4,)))
    with pytest.raises(ValueError, match="the flat model has 8 bytes, not 16"):
        negated(torch.zeros(8, dtype=torch.uint8), manifest, ["w"])
