"""Methods that take a number: NAME:NUMBER."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednot.errors import FednotError, Reason
from server.methods import METHODS, NUMBERED, method_named
from server.methods.noise import Noise
from server.methods.shrink_and_perturb import NegateAndPerturb

COLUMN = 32
"""Characters that the state has for a method's name."""


def test_the_number_is_read_and_told_again() -> None:
    assert method_named("negate-and-perturb:0.5") == NegateAndPerturb(0.5)
    assert method_named("noise:2.50") == Noise(2.5)
    assert method_named("noise:2.50").name == "noise:2.5"
    assert method_named("noise:2").name == "noise:2"


def test_without_a_number_it_is_told_what_it_is() -> None:
    """So that a record says what was done, whatever the default becomes."""
    assert method_named("noise").name == "noise:1"
    assert method_named("shrink-and-perturb").name == "shrink-and-perturb:0.3"


@given(st.sampled_from(sorted(NUMBERED)), st.integers(1, 99))
def test_every_name_reads_back_and_fits_its_column(kind: str, hundredths: int) -> None:
    method = method_named(f"{kind}:{hundredths / 100}")
    assert method_named(method.name) == method
    assert len(method.name) <= COLUMN


def test_the_longest_name_fits_its_column() -> None:
    assert len(method_named("negate-and-perturb:0.12345678").name) <= COLUMN


@pytest.mark.parametrize("number", ["", "x", "-1", "1e-1", ".5", "0.", "nan", "inf", "0.123456789"])
def test_what_is_no_number_is_refused_with_the_use(number: str) -> None:
    with pytest.raises(FednotError, match=r"use noise:NUMBER, a factor .* from 0.01 to 100") as it:
        method_named(f"noise:{number}")
    assert it.value.reason is Reason.UNKNOWN_METHOD


@pytest.mark.parametrize("name", ["noise:0", "noise:101", "negate-and-perturb:1"])
def test_a_number_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(FednotError, match="out of range"):
        method_named(name)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NUMBERED])
def test_the_others_take_none(name: str) -> None:
    with pytest.raises(FednotError, match=f"{name} takes no number; noise, "):
        method_named(f"{name}:1")
