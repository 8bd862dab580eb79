"""Who is asked for what, what is undone, and how a verification stands in the database."""

from __future__ import annotations

import json

import numpy as np

from fednot.layers import Layer, LayerMap
from fednot.loss_profile import LossProfile
from server.cohorts.cohort import ForgottenData, SampleGroup
from server.records import (
    Finding,
    Judged,
    Scope,
    ScopeKind,
    Thresholds,
    Verdict,
    Verification,
)
from server.state.verification_json import from_json, to_json
from server.verification.scoping import holders_of, profile_order
from server.verification.undoing import undoing, undone_name

ASIDE = (SampleGroup.FORGOTTEN, SampleGroup.UNSEEN)
BESIDE = (SampleGroup.RETAINED, SampleGroup.TEST)
NAMES = ("a", "b", "c", "out")
LAYERS = LayerMap(
    layers=tuple(Layer(n, (f"{n}.w", f"{n}.v"), "LSTM", i) for i, n in enumerate(NAMES)),
    first=("a.w", "a.v"),
    feeds={name: frozenset(NAMES[place + 1 :]) for place, name in enumerate(NAMES)},
    outputs=frozenset({"out"}),
    traced=True,
)


def test_a_client_that_goes_looks_at_all_it_had() -> None:
    """It is barred, so not eligible; the others tell of what is kept."""
    scopes = [Scope(ScopeKind.CLIENT, "c0")]
    order = profile_order("j", scopes, {"c0", "c1", "c9"}, {"c1", "c2"}, 7)
    assert order.groups == {"c0": ASIDE, "c1": BESIDE}
    assert order.forgotten == {"c0": ForgottenData(everything=True)}
    assert (order.job_id, order.max_examples) == ("j", 7)
    assert holders_of(scopes, {"c1", "c2"}) == {"c0"}


def test_a_client_that_stays_tells_of_both() -> None:
    scopes = [
        Scope(ScopeKind.SAMPLES, "c1", tombstone="t1"),
        Scope(ScopeKind.SAMPLES, "c1", count=3, sha256="digest"),
    ]
    order = profile_order("j", scopes, {"c1", "c2"}, {"c1", "c2"}, 7)
    assert order.groups == {"c1": (*ASIDE, *BESIDE), "c2": BESIDE}
    assert order.forgotten == {"c1": ForgottenData(tombstones=("t1", "digest"))}


def test_everybody_looks_for_a_class() -> None:
    scopes = [Scope(ScopeKind.CLASS, label=0), Scope(ScopeKind.CLIENT, "c0")]
    order = profile_order("j", scopes, {"c0", "c1"}, {"c1"}, 7)
    assert order.forgotten == {
        "c0": ForgottenData(everything=True, labels=(0,)),
        "c1": ForgottenData(labels=(0,)),
    }
    assert holders_of(scopes, {"c1"}) == {"c0", "c1"}


def test_all_layers_are_undone_together_and_each_alone() -> None:
    found = undoing(LAYERS, ("b.w", "b.v", "c.w"), 8)
    assert found.sets == (("b.w", "b.v", "c.w"), ("b.w", "b.v"), ("c.w",))
    assert found.note == ""


def test_one_layer_is_undone_once() -> None:
    assert undoing(LAYERS, ("b.v", "b.w"), 8).sets == (("b.v", "b.w"),)


def test_an_attempt_that_negated_nothing_has_the_default_layers_undone() -> None:
    assert undoing(LAYERS, (), 8).sets == (("a.w", "a.v"),)
    nothing = LayerMap((), (), {}, frozenset(), traced=True)
    assert undoing(nothing, (), 8).sets == ()
    assert "No layer could be negated" in undoing(nothing, (), 8).note


def test_layers_beyond_the_most_are_named() -> None:
    found = undoing(LAYERS, ("a.w", "b.w", "c.w"), 1)
    assert found.sets == (("a.w", "b.w", "c.w"), ("a.w",))
    assert found.note == "Not negated alone, being more than 1 layers: b.w, c.w."


def test_findings_are_named() -> None:
    assert undone_name("a.w, b.w") == "undone: a.w, b.w"
    assert undone_name("noise:1") == "undone: noise:1"


def test_a_verification_comes_back_from_json_as_it_was() -> None:
    profile = LossProfile.of(np.array([0.1, 2.0, 2.0]), [True, False, False])
    found = Verification(
        behaviour=Judged(Verdict.PASS, "good"),
        depth=Judged(Verdict.NOT_POSSIBLE, "unknown"),
        findings=(
            Finding("recovered", 0, {"auc": 0.5}),
            Finding("undone: a", 2, {"trigger_effect": -0.25}),
        ),
        thresholds=Thresholds(0.2, 0.3),
        found_at=12.5,
        forgotten=profile,
        probe_sha256="ab",
    )
    assert from_json(json.loads(json.dumps(to_json(found)))) == found
    assert from_json(None) is None
