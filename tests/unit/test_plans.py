"""What the next attempt of a job does, by its assurance, from a map of four layers in a row."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fednot.errors import FednotError, Reason
from fednot.layers import Layer, LayerMap
from server.ladder import Rung, rounds_of, rung_of
from server.plans import Plan, next_plan
from server.records import Assurance, Attempt, AttemptOutcome, Job, JobPhase, RecoveryPolicy

NAMES = ("conv1", "conv2", "fc1", "fc2")
LAYERS = LayerMap(
    layers=tuple(Layer(name, (f"{name}.weight",), "Linear", i) for i, name in enumerate(NAMES)),
    first=("conv1.weight",),
    feeds={name: frozenset(NAMES[place + 1 :]) for place, name in enumerate(NAMES)},
    outputs=frozenset({"fc2"}),
    traced=True,
)
LADDER = ("first", "all-but-last", "retrain")
ALL_BUT_LAST = ("conv1.weight", "conv2.weight", "fc1.weight")


def attempt(number: int, plan: Plan, outcome: AttemptOutcome) -> Attempt:
    tensors = plan.choice.tensors
    return Attempt("j", number, plan.method.name, tensors, number, outcome, rung=plan.rung)


def job(*attempts: Attempt, method: str = "not", layers: str = "first", deep: bool = True) -> Job:
    return Job(
        id="j",
        phase=JobPhase.NEGATING,
        method=method,
        layers=layers,
        allow_unsafe_layers=False,
        policy=RecoveryPolicy(),
        created_at=0.0,
        attempts=attempts,
        assurance=Assurance.DEEP if deep else Assurance.BEHAVIOUR,
    )


def climbed(
    ladder: Sequence[str],
    outcome: AttemptOutcome = AttemptOutcome.SUCCEEDED,
    negated: Sequence[str] = (),
    **asked: str,
) -> list[tuple[str, tuple[str, ...], int]]:
    """All plans of a job whose attempts all end so: method, tensors and rung of each."""
    made: list[Attempt] = []
    found = []
    while plan := next_plan(job(*made, **asked), LAYERS, negated, ladder):  # type: ignore[arg-type]
        made.append(attempt(len(made) + 1, plan, outcome))
        found.append((plan.method.name, plan.choice.tensors, plan.rung))
        assert len(found) < 10, "it never ends"
        if plan.method.name == "retrain" and outcome is AttemptOutcome.ABANDONED:
            break
    return found


def test_a_deep_job_climbs_the_ladder() -> None:
    assert climbed(LADDER) == [
        ("not", ("conv1.weight",), 1),
        ("not", ALL_BUT_LAST, 2),
        ("retrain", (), 3),
    ]


def test_a_plan_that_was_asked_for_goes_first_and_is_not_repeated() -> None:
    found = climbed(("index=1", "all-but-last"), layers="index=1")
    assert found == [("not", ("conv2.weight",), 0), ("not", ALL_BUT_LAST, 2)]
    assert climbed(LADDER, method="fine-tune")[0] == ("fine-tune", (), 0)


def test_the_same_layers_with_more_rounds_are_another_plan() -> None:
    found = climbed(("first", "first*24", "first*24"))
    assert [rung for *_, rung in found] == [1, 2]


def test_a_layer_that_the_lineage_has_negated_is_never_taken() -> None:
    found = climbed(("layers=conv1", "first", "all-but-last"), negated=("conv1.weight",))
    assert "conv1.weight" not in [tensor for _, tensors, _ in found for tensor in tensors]
    assert [rung for *_, rung in found] == [2, 3]


def test_where_nothing_recovered_the_job_retrains() -> None:
    found = climbed(("first", "all-but-last"), AttemptOutcome.ABANDONED)
    assert found[-1] == ("retrain", (), 0)
    assert len(found) == 3


def test_unsafe_layers_of_a_ladder_are_recorded() -> None:
    first = next_plan(job(), LAYERS, (), LADDER)
    assert first is not None
    second = next_plan(job(attempt(1, first, AttemptOutcome.SUCCEEDED)), LAYERS, (), LADDER)
    assert second is not None
    assert "no antichain" in second.choice.warnings[0]
    assert "rung 2 of the ladder, all-but-last" in second.explanation


def test_without_a_deep_assurance_the_next_layer_is_taken() -> None:
    plan = next_plan(job(deep=False), LAYERS, (), LADDER)
    assert plan is not None
    assert (plan.choice.tensors, plan.rung) == (("conv1.weight",), 0)
    again = next_plan(
        job(attempt(1, plan, AttemptOutcome.ABANDONED), deep=False), LAYERS, (), LADDER
    )
    assert again is not None
    assert again.choice.tensors == ("conv2.weight",)


def test_rungs_are_read() -> None:
    assert rung_of("first") == Rung("not", "first")
    assert rung_of(" layers=a,b*7 ") == Rung("not", "layers=a,b", 7)
    assert rung_of("retrain*30") == Rung("retrain", rounds=30)
    assert rounds_of(("first", "index=1*9"), 2) == 9
    assert [rounds_of(("first*3",), number) for number in (0, 2)] == [0, 0]


def test_rungs_of_other_methods_are_read() -> None:
    """A method that takes layers takes the first, unless it is told otherwise behind an @."""
    assert rung_of("not@all-but-last") == Rung("not", "all-but-last")
    assert rung_of("negate-and-perturb") == Rung("negate-and-perturb:0.3", "first")
    assert rung_of("negate-and-perturb:0.50 @ index=1,2 * 8") == Rung(
        "negate-and-perturb:0.5", "index=1,2", 8
    )
    assert rung_of("shrink-and-perturb:0.2*9") == Rung("shrink-and-perturb:0.2", rounds=9)
    assert rung_of("not@layers=a@b") == Rung("not", "layers=a@b")
    assert rung_of("all") == Rung("not", "all")


@pytest.mark.parametrize("text", ["retrain@first", "fine-tune@"])
def test_a_rung_gives_no_layers_to_a_method_that_takes_none(text: str) -> None:
    with pytest.raises(FednotError, match="takes no layers"):
        rung_of(text)


def test_a_rung_whose_number_is_out_of_range_is_refused() -> None:
    with pytest.raises(FednotError, match="out of range") as caught:
        rung_of("noise:1000@first")
    assert caught.value.reason is Reason.UNKNOWN_METHOD


def test_a_ladder_of_several_methods_is_climbed() -> None:
    assert climbed(("negate-and-perturb@first", "negate-and-perturb:0.3", "noise@index=1")) == [
        ("negate-and-perturb:0.3", ("conv1.weight",), 1),
        ("noise:1", ("conv2.weight",), 3),
    ]


def test_only_who_flips_signs_is_barred_from_what_the_lineage_negated() -> None:
    plans = [
        next_plan(job(method=method, layers="index=0", deep=False), LAYERS, ("conv1.weight",), ())
        for method in ("noise", "reinitialise", "filter-signs", "negate-and-perturb")
    ]
    assert [plan.choice.tensors for plan in plans if plan] == [
        ("conv1.weight",),
        ("conv1.weight",),
        ("fc1.weight",),
        ("fc1.weight",),
    ]


def test_the_explanation_says_what_was_done_to_which_layer() -> None:
    plan = next_plan(job(method="noise:0.5", deep=False), LAYERS, (), ())
    assert plan is not None
    assert plan.explanation == "noise:0.5 of conv1.weight"


@pytest.mark.parametrize(
    "text",
    ["", "lest", "not@lest", "@first", "amnesia", "first*", "first*0", "first*x", "first*-1", "*3"],
)
def test_what_is_no_rung_is_refused(text: str) -> None:
    with pytest.raises(FednotError) as caught:
        rung_of(text)
    assert caught.value.reason is Reason.INVALID_SELECTOR
